//! How much memory a virtual machine has in hand: what of its vmm is in the host's memory.

use std::fs;

use rustix::param::page_size;

/// Resident memory of a process in MiB, rounded up (proc_pid_statm(5)); nothing if it is gone or hidden from the caller.
pub fn resident_mib(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages.checked_mul(page_size() as u64)?.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_none_has_not() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!((1..10_000).contains(&resident_mib(own).unwrap()));
        assert_eq!(resident_mib(-1), None);
    }
}
