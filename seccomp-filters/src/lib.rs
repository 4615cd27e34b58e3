//! Promises for Linux: [`pledge`] over seccomp and [`Veil`] over Landlock.
//!
//! A promise is a small JSON file under `promises/`: a name (pledge(2)'s where the meaning is the same), the system calls that
//! it needs with conditions on their arguments, and the reason for each. A [`Role`] is a process or thread in one phase of
//! its life, and its filter is the union of its promises (`roles.json`), compiled at build time. Filters only narrow: a later
//! pledge can take rights away, never add one. A system call that is not promised kills the process with SIGSYS, in debug
//! and release builds alike; only `clone3` fails with ENOSYS instead, because its arguments are out of a filter's sight.
//!
//! ```no_run
//! use seccomp_filters::{Policy, Rights, Role, Veil, pledge};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let enforced = Veil::new()?.unveil("/srv/images", Rights::READ)?.lock(Policy::Required)?;
//! println!("{enforced}");
//! pledge(Role::Vcpu)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Roles and promises
#![doc = include_str!(concat!(env!("OUT_DIR"), "/roles.md"))]
#![forbid(unsafe_code)]

mod filters;
mod syscall;
mod unveil;

pub use syscall::syscall_name;
pub use unveil::{Enforced, Policy, Rights, UnveilError, Veil};

/// A process or thread, in one phase of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The vmm from just before `execveat` to its first own pledge, and so everything that it may ever do.
    Launch,
    /// The same in the compatible jail, for vmms of other make: everything that Firecracker may ever do.
    LaunchCompatible,
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

impl Role {
    /// Every role.
    pub const ALL: [Self; 9] = [
        Self::Launch,
        Self::LaunchCompatible,
        Self::VmmConfigureSealed,
        Self::VmmConfigure,
        Self::VmmRunSealed,
        Self::VmmRun,
        Self::Api,
        Self::Vcpu,
        Self::Warden,
    ];
}

/// A filter that the kernel refuses.
#[derive(Debug, thiserror::Error)]
#[error("install the system call filter of {role:?}: {source}; this needs a kernel with CONFIG_SECCOMP_FILTER")]
pub struct PledgeError {
    role: Role,
    source: seccompiler::Error,
}

/// Leaves the calling thread only what `role` promises, and threads that it starts no more than that. Cannot be undone.
///
/// # Errors
/// If the kernel refuses the filter (seccomp(2)).
pub fn pledge(role: Role) -> Result<(), PledgeError> {
    seccompiler::apply_filter(filters::of(role)).map_err(|source| PledgeError { role, source })
}
