//! Promises for Linux: [`pledge`] over seccomp and `unveil` over Landlock.
//!
//! A promise is a small JSON file under `promises/`: a name (pledge(2)'s where the meaning is the same), the system calls that
//! it needs with conditions on their arguments, and the reason for each. A [`Role`] is a process or thread in one phase of
//! its life, and its filter is the union of its promises. Filters only narrow: a later pledge can take rights away,
//! never add one.

#![deny(unsafe_code)]

/// A process or thread, in one phase of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The vmm from just before `execveat` to its first own pledge, and so everything that it may ever do.
    Launch,
    /// The vmm's main thread while it is configured in sealed mode: no path is opened, no socket made.
    VmmConfigureSealed,
    /// The vmm's main thread while it is configured by paths: outside a jail, or in the compatible one.
    VmmConfigure,
    /// The vmm's main thread once the guest runs, with descriptors only.
    VmmRunSealed,
    /// The vmm's main thread once the guest runs, with a vsock device that connects to unix sockets by path.
    VmmRun,
    /// The thread that serves the per-VM API.
    Api,
    /// A vCPU thread.
    Vcpu,
    /// The warden.
    Warden,
}

/// Temporary.
#[derive(Debug, thiserror::Error)]
#[error("pledge")]
pub struct PledgeError;

/// Temporary.
///
/// # Errors
/// Never.
pub fn pledge(_role: Role) -> Result<(), PledgeError> {
    Ok(())
}
