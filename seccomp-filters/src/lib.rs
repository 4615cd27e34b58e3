//! Promises for Linux: [`pledge`] over seccomp and [`Veil`] over Landlock.
//!
//! A promise is a small JSON file under `promises/`: a name (pledge(2)'s where the meaning is the same), the system calls that
//! it needs with conditions on their arguments, and the reason for each. A [`Role`] is a process or thread in one phase of
//! its life, and its filter is the union of its promises (`roles.json`), compiled at build time. Filters only narrow: a later
//! pledge can take rights away, never add one. A system call that is not promised kills the process with SIGSYS, in debug
//! and release builds alike; only `clone3` fails with ENOSYS instead, because its arguments are out of a filter's sight.
//! Which thread made which call is told by the vmm's warden, see `stockade_jailer::tracer`.
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
//! # Width and minimality
//! How wide a role is, the table below counts. Firecracker 1.17 lets its main thread make 50 system calls, its API thread 31
//! and its vCPU threads 27, `open`, `connect` and `sendto` with any arguments among them.
//!
//! Whether a role needs what it has is measured by `tools/minimality`, which `tools/test` runs. It runs the tests of the vmm,
//! of a panic under each role, of jails, of the daemon and of `stockade run` once more, with a tracer (`seccomp-recorder`, ptrace(2)) beside
//! the programs; a warden, which traces its vmm itself, is followed alone. These are the ones that are shipped, under their
//! real filters. The tracer knows a role by the filter that a thread installs, and sees each system call before the filters
//! do, which all that are installed have to let pass, so that one call may use a rule of the launch filter, of the main
//! thread's and of a vCPU's. The sealed vmm is under the launch
//! filter in all of these tests, in a jail or not, and any other under that of the compatible jail. What there is for vmms of
//! other make alone was compared with what Firecracker did under a tracer, and with what its own filters list. A rule that was never used, and that `unused.json` does not list with a
//! reason, fails the tests, as does a listed one that was used. The last table below is that list.
//!
//! # Roles and promises
#![doc = include_str!(concat!(env!("OUT_DIR"), "/roles.md"))]
#![forbid(unsafe_code)]

mod filters;
mod refuse;
pub mod rules;
mod syscall;
mod unveil;

pub use refuse::{RefuseError, refusal, refuse};
pub use seccompiler::sock_filter;
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
    /// As [`VmmConfigureSealed`](Self::VmmConfigureSealed), for a VM that comes from a snapshot, or of which one may be made.
    VmmConfigureSnapshot,
    /// As [`VmmRunSealed`](Self::VmmRunSealed), for a VM of which a snapshot may be made.
    VmmRunSnapshot,
    /// The vmm's main thread once the guest runs, with descriptors only.
    VmmRunSealed,
    /// The vmm's main thread once the guest runs, with a vsock device that connects to unix sockets by path.
    VmmRun,
    /// As [`VmmRun`](Self::VmmRun), for a VM that may be saved to files that are open.
    VmmRunSave,
    /// As [`VmmRunSave`](Self::VmmRunSave), for a vmm that was asked to make these files itself: the one role that opens a
    /// path while a guest runs.
    VmmRunSnapshotFiles,
    /// The thread that serves the per-VM API.
    Api,
    /// A vCPU thread.
    Vcpu,
    /// The warden.
    Warden,
    /// The daemon's process that serves clients.
    Control,
    /// The daemon's process that knows the host's interfaces.
    Net,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 15] = [
        Self::Launch,
        Self::LaunchCompatible,
        Self::VmmConfigureSealed,
        Self::VmmConfigure,
        Self::VmmConfigureSnapshot,
        Self::VmmRunSnapshot,
        Self::VmmRunSealed,
        Self::VmmRun,
        Self::VmmRunSave,
        Self::VmmRunSnapshotFiles,
        Self::Api,
        Self::Vcpu,
        Self::Warden,
        Self::Control,
        Self::Net,
    ];

    /// Its name in `roles.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::LaunchCompatible => "launch-compatible",
            Self::VmmConfigureSealed => "vmm-configure-sealed",
            Self::VmmConfigure => "vmm-configure",
            Self::VmmConfigureSnapshot => "vmm-configure-snapshot",
            Self::VmmRunSnapshot => "vmm-run-snapshot",
            Self::VmmRunSealed => "vmm-run-sealed",
            Self::VmmRun => "vmm-run",
            Self::VmmRunSave => "vmm-run-save",
            Self::VmmRunSnapshotFiles => "vmm-run-snapshot-files",
            Self::Api => "api",
            Self::Vcpu => "vcpu",
            Self::Warden => "warden",
            Self::Control => "control",
            Self::Net => "net",
        }
    }

    /// Its filter, as the kernel gets it from [`pledge`] (seccomp(2)).
    pub const fn filter(self) -> &'static [sock_filter] {
        filters::of(self)
    }

    /// The rules that its filter was compiled from.
    pub fn rules(self) -> &'static [rules::Rule] {
        rules::of(self)
    }
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
