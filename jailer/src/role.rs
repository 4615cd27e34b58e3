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

use crate::error::{JailError, Step};
use crate::jail;
use crate::plan::Layer;

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
    jail::limit_resources(role.descriptors, 1, 0).layer(Layer::ResourceLimits, "set resource limits")?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0).layer(Layer::ResourceLimits, "limit files")?;
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
