//! The credentials and filters of a thread: `/proc/PID/status` (proc_pid_status(5)).
//!
//! An own parser, because it is on the way of every VM's start, and because what judges a jail needs the number of filters.

use std::str::FromStr;

use serde::Serialize;

use crate::capabilities::CapabilitySet;
use crate::error::ParseError;

/// What of a thread's status confines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Name of the program or thread, as it chose.
    pub name: String,
    /// One letter: `R` for running, `S` for sleeping, `Z` for a process that has ended.
    pub state: char,
    /// User ids.
    pub uid: Ids,
    /// Group ids.
    pub gid: Ids,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Whether no program that it executes gives it more rights.
    pub no_new_privs: bool,
    /// What filters its system calls.
    pub seccomp: Seccomp,
    /// How many filters there are, one upon the other; none before Linux 5.9.
    pub seccomp_filters: Option<u32>,
}

/// User or group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// Whose process it is.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// Whose rights it may take back.
    pub saved: u32,
    /// Whose rights count for files.
    pub file_system: u32,
}

impl Ids {
    /// The same id four times.
    pub const fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, file_system: id }
    }

    /// Whether one of them is `id`.
    pub fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved, self.file_system].contains(&id)
    }

    /// Whether all of them are one.
    pub fn are_one(self) -> bool {
        self == Self::all(self.real)
    }
}

/// The five sets of capabilities of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Those that an executed program may inherit.
    pub inheritable: CapabilitySet,
    /// Those that may be used.
    pub permitted: CapabilitySet,
    /// Those in use.
    pub effective: CapabilitySet,
    /// Those that can be had at all.
    pub bounding: CapabilitySet,
    /// Those that every executed program gets.
    pub ambient: CapabilitySet,
}

impl Capabilities {
    /// The sets by name.
    pub fn sets(self) -> [(&'static str, CapabilitySet); 5] {
        [
            ("effective", self.effective),
            ("permitted", self.permitted),
            ("inheritable", self.inheritable),
            ("bounding", self.bounding),
            ("ambient", self.ambient),
        ]
    }

    /// Whether every set is empty.
    pub fn are_none(self) -> bool {
        self == Self::default()
    }
}

/// How system calls are filtered (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// Not at all.
    Off,
    /// All but read, write, _exit and sigreturn are forbidden.
    Strict,
    /// By filters.
    Filter,
    /// A filter has killed it already.
    Violated,
}

impl Status {
    /// Parses the file.
    ///
    /// # Errors
    /// A field is missing, or makes no sense.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fields = Fields(text);
        let capabilities = Capabilities {
            inheritable: fields.capabilities("CapInh")?,
            permitted: fields.capabilities("CapPrm")?,
            effective: fields.capabilities("CapEff")?,
            bounding: fields.capabilities("CapBnd")?,
            ambient: fields.capabilities("CapAmb")?,
        };
        Ok(Self {
            name: fields.get("Name")?.to_owned(),
            state: fields.get("State")?.chars().next().ok_or(ParseError::Missing("State"))?,
            uid: fields.ids("Uid")?,
            gid: fields.ids("Gid")?,
            groups: fields.numbers("Groups")?,
            capabilities,
            no_new_privs: fields.number::<u8>("NoNewPrivs")? != 0,
            seccomp: fields.seccomp()?,
            seccomp_filters: fields
                .find("Seccomp_filters")
                .map(|value| number("Seccomp_filters", value))
                .transpose()?,
        })
    }
}

/// The lines `NAME:\tVALUE`, in the order of the kernel.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }

    fn get(&self, name: &'static str) -> Result<&'a str, ParseError> {
        self.find(name).ok_or(ParseError::Missing(name))
    }

    fn number<T: FromStr>(&self, name: &'static str) -> Result<T, ParseError> {
        number(name, self.get(name)?)
    }

    fn numbers(&self, name: &'static str) -> Result<Vec<u32>, ParseError> {
        self.get(name)?.split_whitespace().map(|word| number(name, word)).collect()
    }

    fn ids(&self, name: &'static str) -> Result<Ids, ParseError> {
        match self.numbers(name)?.as_slice() {
            &[real, effective, saved, file_system] => Ok(Ids { real, effective, saved, file_system }),
            _ => Err(ParseError::invalid(name, self.get(name)?)),
        }
    }

    fn capabilities(&self, name: &'static str) -> Result<CapabilitySet, ParseError> {
        let value = self.get(name)?;
        u64::from_str_radix(value, 16).map(CapabilitySet).map_err(|_| ParseError::invalid(name, value))
    }

    fn seccomp(&self) -> Result<Seccomp, ParseError> {
        match self.find("Seccomp") {
            // A kernel without it does not show it either.
            None | Some("0") => Ok(Seccomp::Off),
            Some("1") => Ok(Seccomp::Strict),
            Some("2") => Ok(Seccomp::Filter),
            // SECCOMP_MODE_DEAD of kernel/seccomp.c.
            Some("3") => Ok(Seccomp::Violated),
            Some(other) => Err(ParseError::invalid("Seccomp", other)),
        }
    }
}

fn number<T: FromStr>(name: &'static str, text: &str) -> Result<T, ParseError> {
    text.parse().map_err(|_| ParseError::invalid(name, text))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a vmm in its jail.
    pub(crate) const CONFINED: &str = "Name:\tstockade-vmm\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t3171\nNgid:\t0\nPid:\t3171\n\
        PPid:\t3170\nTracerPid:\t0\nUid:\t1879048193\t1879048193\t1879048193\t1879048193\n\
        Gid:\t1879048193\t1879048193\t1879048193\t1879048193\nFDSize:\t64\nGroups:\t \nNStgid:\t3171\t1\nNSpid:\t3171\t1\n\
        Kthread:\t0\nThreads:\t3\nSigQ:\t0/96365\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t3\nSpeculation_Store_Bypass:\tvulnerable\n";

    #[test]
    fn a_confined_thread() {
        let status = Status::parse(CONFINED).unwrap();
        assert_eq!((status.name.as_str(), status.state), ("stockade-vmm", 'S'));
        assert_eq!((status.uid, status.gid), (Ids::all(0x7000_0001), Ids::all(0x7000_0001)));
        assert_eq!(status.groups, [] as [u32; 0]);
        assert!(status.capabilities.are_none() && status.no_new_privs);
        assert_eq!((status.seccomp, status.seccomp_filters), (Seccomp::Filter, Some(3)));
    }

    #[test]
    fn every_field_counts() {
        type Check = fn(&Status) -> bool;
        let table: [(&str, &str, Check); 12] = [
            ("Uid:\t1879048193", "Uid:\t0", |s| s.uid.has(0) && !s.uid.are_one()),
            ("Gid:\t1879048193\t1879048193", "Gid:\t1\t4294967295", |s| s.gid.effective == u32::MAX && s.gid.real == 1),
            ("Groups:\t ", "Groups:\t0 4 1000 ", |s| s.groups == [0, 4, 1000]),
            ("CapInh:\t0", "CapInh:\t8", |s| s.capabilities.inheritable == CapabilitySet(8 << 60)),
            ("CapPrm:\t0000000000000000", "CapPrm:\t000001ffffffffff", |s| s.capabilities.permitted.len() == 41),
            ("CapEff:\t0", "CapEff:\t1", |s| !s.capabilities.effective.is_empty()),
            ("CapBnd:\t0", "CapBnd:\t1", |s| !s.capabilities.bounding.is_empty()),
            ("CapAmb:\t0", "CapAmb:\t1", |s| !s.capabilities.ambient.is_empty()),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", |s| !s.no_new_privs),
            ("Seccomp:\t2", "Seccomp:\t0", |s| s.seccomp == Seccomp::Off),
            ("Seccomp:\t2", "Seccomp:\t3", |s| s.seccomp == Seccomp::Violated),
            ("Seccomp_filters:\t3\n", "", |s| s.seccomp_filters.is_none()),
        ];
        for (from, to, holds) in table {
            let text = CONFINED.replacen(from, to, 1);
            assert_ne!(text, CONFINED);
            assert!(holds(&Status::parse(&text).unwrap()), "{to}");
        }
    }

    #[test]
    fn what_is_missing_or_makes_no_sense_is_named() {
        for field in
            ["Name", "State", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"]
        {
            let text: String = CONFINED
                .lines()
                .filter(|line| !line.starts_with(&format!("{field}:")))
                .fold(String::new(), |text, line| text + line + "\n");
            assert_eq!(Status::parse(&text).unwrap_err(), ParseError::Missing(field));
        }
        for (from, to) in
            [("Uid:\t1879048193\t", "Uid:\t"), ("Seccomp:\t2", "Seccomp:\tx"), ("CapBnd:\t0", "CapBnd:\t-")]
        {
            assert!(Status::parse(&CONFINED.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_surprise(text in "(Uid|Groups|Cap[A-Z]{3}|Seccomp|State|Name)?:?\\s?\\PC{0,40}\\n?") {
            let _ = Status::parse(&text);
            let _ = Status::parse(&(CONFINED.to_owned() + &text));
        }

        #[test]
        fn ids_are_what_the_kernel_wrote(ids in any::<[u32; 4]>(), groups in proptest::collection::vec(any::<u32>(), 0..40)) {
            let [real, effective, saved, file_system] = ids;
            let list: String = groups.iter().map(|group| format!("{group} ")).collect();
            let uid = format!("Uid:\t{real}\t{effective}\t{saved}\t{file_system}\nGroups:\t{list}\n");
            let text = uid + &CONFINED.replace("Uid:", "Other:").replace("Groups:", "Others:");
            let status = Status::parse(&text).unwrap();
            prop_assert_eq!(status.uid, Ids { real, effective, saved, file_system });
            prop_assert_eq!(status.groups, groups);
        }
    }
}
