//! What a running vmm takes of the host's memory, and what filters it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, at};

/// Memory of a process, the pages of its guest included, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Pages that it changed and shares with nobody.
    pub private_dirty_kib: u64,
    /// Proportional set size: private pages, and its share of the shared ones.
    pub pss_kib: u64,
}

/// Measures the process.
pub fn measure(pid: u32) -> Result<Footprint, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let rollup = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    let field = |field| kib(&rollup, field).ok_or_else(|| Error::Field { object: path.clone(), field });
    Ok(Footprint { private_dirty_kib: field("Private_Dirty")?, pss_kib: field("Pss")? })
}

/// How many of the process's threads have a system call filter, and how many there are.
pub fn filtered_threads(pid: u32) -> Result<(usize, usize), Error> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let (mut filtered, mut all) = (0, 0);
    for entry in std::fs::read_dir(&folder).map_err(at("list", &folder))? {
        let path = entry.map_err(at("list", &folder))?.path().join("status");
        let status = std::fs::read_to_string(&path).map_err(at("read", &path))?;
        // KVM adds a thread of its own to the process on some hosts.
        if !status.starts_with("Name:\tkvm-") {
            all += 1;
            filtered += usize::from(status.contains("\nSeccomp:\t2\n"));
        }
    }
    Ok((filtered, all))
}

/// Pages that the process shares with nobody, KiB.
pub fn private_kib(pid: u32) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let rollup = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    let field = |field| kib(&rollup, field).ok_or_else(|| Error::Field { object: path.clone(), field });
    Ok(field("Private_Dirty")?.saturating_add(field("Private_Clean")?))
}

/// Processor time of all threads of the process that are still there (proc_pid_schedstat, Documentation/scheduler/sched-stats.rst).
pub fn processor_time(pid: u32) -> Result<Duration, Error> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let of_thread = |path: &Path| {
        let path = path.join("schedstat");
        let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
        let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
        nanoseconds.map(Duration::from_nanos).ok_or(Error::Field { object: path, field: "time on the processor" })
    };
    let threads = std::fs::read_dir(&folder).map_err(at("list", &folder))?;
    threads.map(|entry| of_thread(&entry.map_err(at("list", &folder))?.path())).sum()
}

/// The parent of a process.
pub fn parent(pid: u32) -> Result<u32, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    parent.ok_or(Error::Field { object: path, field: "PPid" })
}

/// The children of a process that has forked in its first thread only.
pub fn children(pid: u32) -> Result<Vec<u32>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
    let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    Ok(text.split_whitespace().filter_map(|child| child.parse().ok()).collect())
}

/// A field of proc_pid_smaps_rollup(5).
fn kib(rollup: &str, field: &str) -> Option<u64> {
    let value = rollup.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let rollup = "1000-2000 ---p 00000000 00:00 0    [rollup]\nPss_Dirty:     360 kB\nPss:          3512 kB\n";
        assert_eq!(kib(rollup, "Pss"), Some(3512));
        assert_eq!(kib(rollup, "Private_Dirty"), None);
    }
}
