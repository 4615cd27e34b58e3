//! Names of system calls, for whoever explains why a process was killed.

use syscalls::Sysno;

/// Name of the system call `number` on this architecture, as in the promises; `None` for a number that has none.
pub fn syscall_name(number: u32) -> Option<&'static str> {
    Sysno::new(usize::try_from(number).ok()?).map(|call| call.name())
}
