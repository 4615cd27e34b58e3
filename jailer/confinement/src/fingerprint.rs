//! What tells a process from every other that has had its number, or will have it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::error::{ParseError, ReadError};
use crate::process::Process;
use crate::record::identity;

/// What no two processes have in common before the host boots again. The number alone would do from Linux 6.9 on; before that,
/// the other two tell apart what matters: one that came later, and one that runs something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Its number in the kernel (see [`identity`]).
    pub number: u64,
    /// When it started: clock ticks since the host booted (proc_pid_stat(5)).
    pub started_ticks: u64,
    /// Device and inode of its program (`/proc/PID/exe`).
    pub program: (u64, u64),
}

impl Fingerprint {
    /// That of a process, and a descriptor of the process (pidfd_open(2)).
    ///
    /// # Errors
    /// It has ended, or its program is not shown to the caller.
    pub fn take(process: &Process) -> Result<(Self, OwnedFd), ReadError> {
        let descriptor = process.descriptor()?;
        let failed = |source| ReadError::Read { path: format!("/proc/{}", process.pid()), source };
        let number = identity(&descriptor).map_err(failed)?;
        let program = process.metadata("exe")?;
        let started_ticks = process.parsed("stat", started)?;
        Ok((Self { number, started_ticks, program: (program.st_dev, program.st_ino) }, descriptor))
    }
}

/// The 22nd field. The second is the program's name in parentheses, whatever that is.
fn started(stat: &str) -> Result<u64, ParseError> {
    let (_, after_name) = stat.rsplit_once(')').ok_or(ParseError::Missing("name"))?;
    let field = after_name.split_whitespace().nth(19).ok_or(ParseError::Missing("starttime"))?;
    field.parse().map_err(|_| ParseError::invalid("starttime", field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_move_the_fields() {
        let fields: Vec<String> = (3..=30).map(|number: u32| number.to_string()).collect();
        assert_eq!(started(&format!("7 (a) 1 2 (b) {}", fields.join(" "))), Ok(22));
        assert_eq!(started("7 (a) S 1"), Err(ParseError::Missing("starttime")));
        assert_eq!(started("7"), Err(ParseError::Missing("name")));
    }

    #[test]
    fn two_processes_differ_and_one_does_not() {
        let take = |pid: u32| Fingerprint::take(&Process::open(pid.try_into().unwrap()).unwrap()).unwrap().0;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        // Until it has executed its program, that is this one.
        while take(child.id()).program == take(std::process::id()).program {
            std::thread::yield_now();
        }
        let (own, other) = (take(std::process::id()), take(child.id()));
        assert_eq!(take(child.id()), other);
        assert_eq!(take(std::process::id()), own);
        assert_ne!(own.program, other.program);
        assert!(own.started_ticks <= other.started_ticks);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
