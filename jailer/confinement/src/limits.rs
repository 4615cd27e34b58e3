//! Resource limits: `/proc/PID/limits` (getrlimit(2)).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::ParseError;

/// Most descriptors of a vmm: its own, and one for each connection over vsock.
pub const MOST_DESCRIPTORS: u64 = 4096;

/// The resource limits that a jail sets beside those that are 0: core dumps and message queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Open descriptors.
    pub descriptors: u64,
    /// Processes and threads of the user.
    pub processes: u64,
    /// Locked memory, bytes.
    pub locked_bytes: u64,
}

impl Ceilings {
    /// Those of a sealed jail with so many processes.
    pub const fn sealed(processes: u64) -> Self {
        Self { descriptors: MOST_DESCRIPTORS, processes, locked_bytes: 0 }
    }
}

/// The limits of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ResourceLimits(pub Vec<ResourceLimit>);

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceLimit {
    /// Of what, in the kernel's words: `open files`.
    pub name: String,
    /// What is in force.
    pub soft: Limit,
    /// Up to which the process may raise it.
    pub hard: Limit,
    /// What is counted; none if it is a plain number.
    pub unit: Option<String>,
}

/// How much; none for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Limit(pub Option<u64>);

impl Limit {
    /// Whether it is at most this.
    pub fn is_at_most(self, bound: u64) -> bool {
        self.0.is_some_and(|limit| limit <= bound)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(formatter),
            None => formatter.write_str("unlimited"),
        }
    }
}

impl ResourceLimits {
    /// Parses the file.
    ///
    /// # Errors
    /// A line is not as it should be.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        // The first line has the headings.
        let limits: Vec<_> = text.lines().skip(1).map(ResourceLimit::parse).collect::<Result<_, _>>()?;
        if limits.is_empty() { Err(ParseError::Missing("limit")) } else { Ok(Self(limits)) }
    }

    /// The hard limit of this name; unlimited if the kernel has none.
    pub fn hard(&self, name: &str) -> Limit {
        self.0.iter().find(|limit| limit.name == name).map_or(Limit(None), |limit| limit.hard)
    }
}

impl ResourceLimit {
    /// Parses `Max open files            4096                 4096                 files     `.
    fn parse(line: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::invalid("a limit", line);
        let name_and_more = line.strip_prefix("Max ").ok_or_else(bad)?;
        // The name may have spaces; two of them end it.
        let (name, values) = name_and_more.split_once("  ").ok_or_else(bad)?;
        let mut values = values.split_whitespace();
        let mut limit = || match values.next() {
            Some("unlimited") => Ok(Limit(None)),
            Some(number) => number.parse().map(|number| Limit(Some(number))).map_err(|_| bad()),
            None => Err(bad()),
        };
        let (soft, hard) = (limit()?, limit()?);
        Ok(Self { name: name.to_owned(), soft, hard, unit: values.next().map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VMM: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max core file size        0                    0                    bytes     
Max processes             18                   18                   processes 
Max open files            4096                 4096                 files     
Max locked memory         0                    0                    bytes     
Max nice priority         0                    0                    
Max realtime timeout      unlimited            unlimited            us        
";

    #[test]
    fn limits_of_a_vmm() {
        let limits = ResourceLimits::parse(VMM).unwrap();
        assert_eq!(limits.0.len(), 7);
        assert_eq!(limits.hard("core file size"), Limit(Some(0)));
        assert_eq!(limits.hard("cpu time"), Limit(None));
        assert_eq!(limits.hard("what this kernel has not"), Limit(None));
        let files = &limits.0[3];
        assert_eq!((files.soft, files.unit.as_deref()), (Limit(Some(4096)), Some("files")));
        assert_eq!(limits.0[5].unit, None);
        assert!(limits.hard("open files").is_at_most(4096) && !limits.hard("cpu time").is_at_most(u64::MAX));
    }

    #[test]
    fn other_lines_are_refused() {
        for line in
            ["", "Limit\n", "Limit\nopen files  1  1\n", "Limit\nMax x  1\n", "Limit\nMax x  1  y\n", "L\nMax x 1 1\n"]
        {
            assert!(ResourceLimits::parse(line).is_err(), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn values_are_what_the_kernel_wrote(soft in any::<Option<u64>>(), hard in any::<Option<u64>>()) {
            // As fs/proc/base.c prints them.
            let line = format!("L\nMax {:<21} {:<20} {:<20} {:<10}\n", "file size", Limit(soft).to_string(), Limit(hard).to_string(), "bytes");
            let limits = ResourceLimits::parse(&line).unwrap();
            prop_assert_eq!((limits.0[0].soft, limits.0[0].hard), (Limit(soft), Limit(hard)));
        }

        #[test]
        fn no_text_is_a_surprise(text in "Limit\\n(Max )?\\PC{0,80}") {
            let _ = ResourceLimits::parse(&text);
        }
    }
}
