//! What was used: a file for each program that was started, with a line for each rule when it is used for the first time.
//!
//! ```text
//! vcpu<TAB>ioctl KVM_RUN
//! !<TAB>why the file is not complete
//! ```
//! A line is written at once, so that a killed program has left all of its.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use seccomp_filters::Role;

const INCOMPLETE: &str = "!";

/// A file that is written.
pub struct Record {
    file: File,
    used: BTreeSet<(&'static str, usize)>,
}

impl Record {
    /// Goes on with the file of this name in the folder.
    pub fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(folder.join(name))?;
        Ok(Self { file, used: BTreeSet::new() })
    }

    /// A thread makes a system call under the filters of these roles.
    pub fn call(&mut self, roles: &[Role], number: u32, arguments: &[u64; 6]) -> io::Result<()> {
        for role in roles {
            for (index, rule) in role.rules().iter().enumerate() {
                if rule.allows(number, arguments) && self.used.insert((role.name(), index)) {
                    self.line(role.name(), &rule.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// From here on, something is missing.
    pub fn incomplete(&mut self, reason: &str) -> io::Result<()> {
        self.line(INCOMPLETE, reason)
    }

    fn line(&mut self, key: &str, value: &str) -> io::Result<()> {
        self.file.write_all(format!("{key}\t{value}\n").as_bytes())
    }
}

/// All that the files of a folder have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Role and rule.
    pub rules: BTreeSet<(String, String)>,
    /// Why a file is not complete.
    pub incomplete: BTreeSet<String>,
}

impl Used {
    /// Reads every file of the folder.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut used = Self::default();
        for entry in std::fs::read_dir(folder)? {
            for line in std::fs::read_to_string(entry?.path())?.lines() {
                match line.split_once('\t') {
                    Some((INCOMPLETE, reason)) => used.incomplete.insert(reason.to_owned()),
                    Some((role, rule)) => used.rules.insert((role.to_owned(), rule.to_owned())),
                    None => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no record: {line:?}"))),
                };
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 0;
    const OPEN: u32 = 2;

    #[test]
    fn a_rule_is_recorded_once_for_each_role_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::open(folder.path(), "1").unwrap();
        record.call(&[], READ, &[0; 6]).unwrap();
        for _ in 0..2 {
            record.call(&[Role::Launch, Role::Vcpu], READ, &[0; 6]).unwrap();
            record.call(&[Role::Vcpu], OPEN, &[0; 6]).unwrap();
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("1")).unwrap(), "launch\tread\nvcpu\tread\n");
        Record::open(folder.path(), "1").unwrap().incomplete("gone").unwrap();
        let used = Used::read(folder.path()).unwrap();
        let rule = |role: &str| (role.to_owned(), "read".to_owned());
        assert_eq!(used.rules, BTreeSet::from([rule("launch"), rule("vcpu")]));
        assert_eq!(used.incomplete, BTreeSet::from(["gone".to_owned()]));
    }

    #[test]
    fn what_is_no_record_is_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("1"), "vcpu read\n").unwrap();
        assert!(Used::read(folder.path()).unwrap_err().to_string().contains("vcpu read"));
    }
}
