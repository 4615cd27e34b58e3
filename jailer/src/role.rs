//! The jail of a role: of a process that parses what strangers write, and has nothing but a socket to who started it. It puts
//! the jail on itself.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{chdir, pivot_root, setsid};
use seccomp_filters::{Enforced, Policy, Veil};
use stockade_confinement::{CapabilitySet, Ceilings, JailKind, LayerReport, NamespaceKind, Record, identity};

use crate::error::{JailError, Step};
use crate::jail;
use crate::plan::Layer;

/// Processes of a role's user.
const PROCESSES: u64 = 1;
/// Private memory of a role: for hundreds of clients at once, each of which has it hold 320 KiB at most.
const MEMORY_BYTES: u64 = 160 << 20;

/// What a role becomes.
#[derive(Debug, Clone, Copy)]
pub struct RoleJail<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// An empty folder, on which its root is mounted for it alone.
    pub empty: &'a Path,
    /// Most descriptors.
    pub descriptors: u64,
}

/// Namespaces that a role has of its own.
pub const NAMESPACES: [NamespaceKind; 5] =
    [NamespaceKind::Mount, NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Cgroup];

impl RoleJail<'_> {
    /// The record of the calling process, once it is in this jail; `hidden` is what Landlock hides.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn record(&self, name: &str, hidden: &Enforced) -> io::Result<Record> {
        let report = |layer| {
            let (enforced, detail) = match layer {
                Layer::Cgroup => (false, "its share of the host is the daemon's".to_owned()),
                Layer::Namespaces => (true, "mount, network, ipc, uts and cgroup".to_owned()),
                Layer::Root => (true, "an empty tmpfs: read-only, nodev, nosuid, noexec".to_owned()),
                Layer::ResourceLimits => (
                    true,
                    format!(
                        "no core dump, {} descriptors, {} MiB of private memory, no file",
                        self.descriptors,
                        MEMORY_BYTES >> 20
                    ),
                ),
                Layer::Capabilities => (true, "every set empty, securebits locked".to_owned()),
                Layer::Uid => (true, format!("user {} and group {}", self.uid, self.gid)),
                Layer::Landlock => (true, hidden.to_string()),
                Layer::Seccomp => (true, "a filter of its own".to_owned()),
            };
            LayerReport { layer, enforced, detail }
        };
        let own = rustix::process::getpid();
        let identity = identity(rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())?)?;
        let ceilings = Ceilings { descriptors: self.descriptors, processes: PROCESSES, locked_bytes: 0 };
        Ok(Record {
            id: name.to_owned(),
            pid: own.as_raw_pid(),
            identity,
            uid: self.uid,
            gid: self.gid,
            jail: JailKind::Daemon {
                ceilings,
                namespaces: NAMESPACES.into(),
                capabilities: CapabilitySet::default(),
                // The parent's, and its own.
                filters: 2,
            },
            layers: Layer::ALL.map(report).into(),
        })
    }
}

/// Gives up everything but what is open, and system calls, which the role gives up itself as soon as it is ready (see
/// [`seccomp_filters::pledge`]). For a process with one thread, as root. Returns what Landlock hides.
///
/// # Errors
/// The step that failed.
pub fn confine(role: &RoleJail<'_>) -> Result<Enforced, JailError> {
    setsid().step("leave the session")?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).layer(Layer::Namespaces, "make namespaces")?;
    empty_root(role.empty)?;
    jail::limit_resources(role.descriptors, PROCESSES, 0).layer(Layer::ResourceLimits, "set resource limits")?;
    setrlimit(Resource::RLIMIT_DATA, MEMORY_BYTES, MEMORY_BYTES).layer(Layer::ResourceLimits, "limit memory")?;
    jail::forbid_capabilities().layer(Layer::Capabilities, "empty the capability sets")?;
    jail::become_user(role.uid, role.gid, &[]).layer(Layer::Uid, format!("become user {}", role.uid))?;
    jail::give_up_capabilities().layer(Layer::Capabilities, "give up capabilities")?;
    prctl::set_no_new_privs().step("set no_new_privs")?;
    prctl::set_dumpable(false).step("forbid to trace this process")?;
    // Undone by a change of the user id, so only now.
    prctl::set_pdeathsig(Signal::SIGKILL).step("ask to die with the parent")?;
    let hidden = Veil::new().and_then(|veil| veil.lock(Policy::Required)).map_err(io::Error::other);
    hidden.layer(Layer::Landlock, "hide everything")
}

/// Gives up writing to files, too.
///
/// # Errors
/// As setrlimit(2).
pub fn limit_files() -> Result<(), JailError> {
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0).layer(Layer::ResourceLimits, "limit files")
}

fn empty_root(on: &Path) -> Result<(), JailError> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).layer(Layer::Root, "make mounts private")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("stockade"), on, Some("tmpfs"), flags, Some("size=4k,nr_inodes=2,mode=555"))
        .layer(Layer::Root, "mount an empty root")?;
    chdir(on).layer(Layer::Root, "enter the empty root")?;
    // pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one, and is taken away.
    pivot_root(".", ".").layer(Layer::Root, "change the root")?;
    umount2(".", MntFlags::MNT_DETACH).layer(Layer::Root, "give up the old root")?;
    chdir("/").layer(Layer::Root, "enter the new root")
}
