//! The jail, step by step. Each step consumes the jail that the one before it returned, so the compiler refuses a jail whose
//! steps are missing or out of order:
//!
//! | step | layers |
//! |---|---|
//! | [`isolate`](Jail::isolate) | cgroup, namespaces |
//! | [`empty_root`](Jail::empty_root) | root |
//! | [`limit`](Jail::limit) | resource-limits |
//! | [`drop_privileges`](Jail::drop_privileges) | capabilities, uid |
//! | [`unveil`](Jail::unveil) | landlock |
//! | [`execute`](Jail::execute) | seccomp, and the vmm |

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use caps::CapSet;
use nix::fcntl::{AtFlags, FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{execveat, sethostname, setsid};
use rustix::thread::{CapabilitySet, Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use stockade_confinement::{Ceilings, Expectation, JailRoot, MOST_DESCRIPTORS};

use crate::cgroup::Cgroup;
use crate::error::{JailError, Step};
use crate::mount_namespace::{Maker, Mounts};
use crate::plan::{Authority, Layer, NamespaceKind, Plan};
use crate::warden::LayerReport;
use crate::{mount_namespace, sys, unveil};

/// Root, and where the jailer was started.
#[derive(Debug)]
pub struct Privileged;
/// In control groups and namespaces of its own.
#[derive(Debug)]
pub struct Isolated;
/// In an empty root directory.
#[derive(Debug)]
pub struct Rooted;
/// With resource limits.
#[derive(Debug)]
pub struct Limited;
/// Another user, without capabilities.
#[derive(Debug)]
pub struct Unprivileged;
/// Without any path.
#[derive(Debug)]
pub struct Unveiled;

/// The namespaces that a process makes for itself. That for processes is its parent's to make.
const NAMESPACES: [(NamespaceKind, CloneFlags); 5] = [
    (NamespaceKind::Mount, CloneFlags::CLONE_NEWNS),
    (NamespaceKind::Network, CloneFlags::CLONE_NEWNET),
    (NamespaceKind::Ipc, CloneFlags::CLONE_NEWIPC),
    (NamespaceKind::Uts, CloneFlags::CLONE_NEWUTS),
    (NamespaceKind::Cgroup, CloneFlags::CLONE_NEWCGROUP),
];

/// A process on its way into its jail.
#[derive(Debug)]
pub struct Jail<'a, State> {
    plan: &'a Plan,
    reports: Vec<LayerReport>,
    mounts: Mounts,
    state: PhantomData<State>,
}

impl<'a, State> Jail<'a, State> {
    /// Puts `layer` on with `put_on`, which returns what exactly is in force, unless the plan gave it up.
    fn layer(
        &mut self,
        layer: Layer,
        put_on: impl FnOnce(&Plan) -> Result<String, JailError>,
    ) -> Result<(), JailError> {
        let enforced = self.plan.wants(layer);
        let detail = if enforced { put_on(self.plan)? } else { self.plan.why_without(layer).to_owned() };
        self.reports.push(LayerReport { layer, enforced, detail });
        Ok(())
    }

    fn next<Next>(self) -> Jail<'a, Next> {
        Jail { plan: self.plan, reports: self.reports, mounts: self.mounts, state: PhantomData }
    }
}

impl<'a> Jail<'a, Privileged> {
    /// A process that is about to build the jail of `plan` around itself.
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, reports: Vec::new(), mounts: Mounts::OfHost, state: PhantomData }
    }

    /// Joins the control group, and leaves every namespace but the PID namespace that it was born in.
    ///
    /// # Errors
    /// The step that failed.
    pub fn isolate(mut self, cgroup: Option<&Cgroup>) -> Result<Jail<'a, Isolated>, JailError> {
        setsid().step("leave the session")?;
        self.layer(Layer::Cgroup, |_| {
            let cgroup = cgroup.ok_or(io::ErrorKind::NotFound).layer(Layer::Cgroup, "join the control group")?;
            cgroup.join().layer(Layer::Cgroup, "join the control group")?;
            Ok(cgroup.describe())
        })?;
        let mut mounts = Mounts::OfHost;
        self.layer(Layer::Namespaces, |plan| {
            let made = NAMESPACES.into_iter().filter(|(kind, _)| plan.wants_namespace(*kind));
            let flags: CloneFlags = made.map(|(_, flag)| flag).collect();
            let left = match flags.contains(CloneFlags::CLONE_NEWNS) {
                true => leave_mounts(plan, flags),
                false => unshare(flags).map(|()| Mounts::OfHost).map_err(io::Error::from),
            };
            mounts = left.layer(Layer::Namespaces, "make namespaces")?;
            if plan.wants_namespace(NamespaceKind::Uts) {
                sethostname(&plan.id).layer(Layer::Namespaces, "set the host name")?;
            }
            Ok(describe_namespaces(plan))
        })?;
        self.mounts = mounts;
        Ok(self.next())
    }
}

impl<'a> Jail<'a, Isolated> {
    /// Changes to an empty, read-only root directory, of which nothing else remains.
    ///
    /// # Errors
    /// The step that failed.
    pub fn empty_root(mut self) -> Result<Jail<'a, Rooted>, JailError> {
        let mut mounts = self.mounts;
        self.layer(Layer::Root, |plan| {
            if !plan.wants(Layer::Namespaces) {
                // Not the host's mounts: the root needs a namespace of its own, whatever else was given up.
                mounts = leave_mounts(plan, CloneFlags::CLONE_NEWNS).layer(Layer::Root, "make a mount namespace")?;
            }
            let root = mount_namespace::empty_root().layer(Layer::Root, "make an empty root")?;
            mount_namespace::enter(&root, mounts).layer(Layer::Root, "change the root")?;
            Ok("an empty tmpfs: read-only, nodev, nosuid, noexec".to_owned())
        })?;
        Ok(self.next())
    }
}

impl<'a> Jail<'a, Rooted> {
    /// Sets resource limits. No file can be made larger than the largest of those that the vmm inherits for writing. Private memory
    /// is limited as by the control group: that counts what is used, and this what there could be. None becomes executable.
    ///
    /// # Errors
    /// The step that failed.
    pub fn limit(mut self, inherited: &[BorrowedFd<'_>]) -> Result<Jail<'a, Limited>, JailError> {
        self.layer(Layer::ResourceLimits, |plan| {
            set_resource_limits(plan).layer(Layer::ResourceLimits, "set resource limits")?;
            let largest = largest_writable(inherited).layer(Layer::ResourceLimits, "look at the vmm's files")?;
            let memory = plan.limits.memory_bytes;
            for (resource, limit) in [(Resource::RLIMIT_FSIZE, largest), (Resource::RLIMIT_DATA, memory)] {
                setrlimit(resource, limit, limit).layer(Layer::ResourceLimits, "limit files and memory")?;
            }
            refuse_executable_memory().layer(Layer::ResourceLimits, "refuse executable memory")?;
            let processes = most_processes(plan);
            Ok(format!(
                "no core dump, {MOST_DESCRIPTORS} descriptors, {processes} processes, no locked memory, no message queues, \
                 no file larger than {largest} bytes, {memory} bytes of private memory, none that becomes executable"
            ))
        })?;
        Ok(self.next())
    }
}

impl<'a> Jail<'a, Limited> {
    /// Becomes the plan's user, and gives up every capability and every way to get one.
    ///
    /// # Errors
    /// The step that failed.
    pub fn drop_privileges(mut self) -> Result<Jail<'a, Unprivileged>, JailError> {
        self.layer(Layer::Capabilities, |_| {
            forbid_capabilities().layer(Layer::Capabilities, "empty the capability sets")?;
            Ok("every set empty, securebits locked".to_owned())
        })?;
        self.layer(Layer::Uid, |plan| {
            become_user(plan.uid, plan.uid, &[]).layer(Layer::Uid, format!("become user {}", plan.uid))?;
            Ok(format!("user and group {}", plan.uid))
        })?;
        if self.plan.wants(Layer::Capabilities) {
            give_up_capabilities().layer(Layer::Capabilities, "give up capabilities")?;
        }
        prctl::set_no_new_privs().step("set no_new_privs")?;
        // Undone by a change of the user id, so only now: no vmm outlives its warden.
        prctl::set_pdeathsig(Signal::SIGKILL).step("ask to die with the warden")?;
        Ok(self.next())
    }
}

impl<'a> Jail<'a, Unprivileged> {
    /// Gives up every path but the `executable`, and every port, signal and abstract socket outside.
    ///
    /// # Errors
    /// The step that failed.
    pub fn unveil(mut self, executable: &OwnedFd) -> Result<Jail<'a, Unveiled>, JailError> {
        self.layer(Layer::Landlock, |_| {
            let enforced = unveil::all_but_program(executable).map_err(io::Error::other);
            let enforced = enforced.layer(Layer::Landlock, "hide everything but stockade-vmm")?;
            Ok(format!("{enforced}; left is the vmm's program"))
        })?;
        Ok(self.next())
    }
}

impl Jail<'_, Unveiled> {
    /// Installs the launch filter and executes the vmm. `report` is told what is in force just before that.
    ///
    /// # Errors
    /// The step that failed; there is no other return.
    pub fn execute(
        mut self,
        executable: &OwnedFd,
        inherited: &[BorrowedFd<'_>],
        report: impl FnOnce(&[LayerReport]) -> io::Result<()>,
    ) -> Result<Infallible, JailError> {
        sys::close_on_exec_from(3).step("close descriptors")?;
        for descriptor in inherited {
            fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).step("keep a descriptor")?;
        }
        let plan = self.plan;
        self.layer(Layer::Seccomp, |_| Ok("launch filter, then one for each thread".to_owned()))?;
        report(&self.reports).step("report")?;
        let arguments = self.arguments()?;
        if plan.wants(Layer::Seccomp) {
            seccomp_filters::pledge(seccomp_filters::Role::Launch)
                .map_err(io::Error::other)
                .layer(Layer::Seccomp, "install the launch filter")?;
        }
        let environment: [CString; 0] = [];
        execveat(executable, c"", &arguments, &environment, AtFlags::AT_EMPTY_PATH).step("execute stockade-vmm")
    }

    /// The vmm's arguments: the plan's, and what the vmm is to find before it believes that it is confined.
    fn arguments(&self) -> Result<Vec<CString>, JailError> {
        let enforced = self.reports.iter().filter(|report| report.enforced).map(|report| report.layer);
        let (uid, ceilings) = (self.plan.uid, Ceilings::sealed(most_processes(self.plan)));
        let expected = Expectation::new(enforced, JailRoot::Empty, (uid, uid), ceilings);
        let without_filters = (!self.plan.wants(Layer::Seccomp)).then(|| "--no-seccomp".to_owned());
        let confined = ["--confined".to_owned(), expected.to_string()];
        let program = std::iter::once("stockade-vmm".to_owned());
        let own = program.chain(without_filters).chain(confined);
        let arguments = own.chain(self.plan.arguments.iter().cloned());
        arguments.map(CString::new).collect::<Result<_, _>>().step("prepare the vmm's arguments")
    }
}

/// What is no program is never executed, where the kernel knows how to refuse it: the filters do, too.
pub(crate) fn refuse_executable_memory() -> io::Result<()> {
    match sys::refuse_executable_memory() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

fn describe_namespaces(plan: &Plan) -> String {
    let user = if plan.authority == Authority::User { "user, " } else { "" };
    let shared: Vec<_> = plan.shared_namespaces.iter().map(|kind| kind.name()).collect();
    let except = if shared.is_empty() { String::new() } else { format!(", except {}", shared.join(", ")) };
    format!("{user}mount, pid, network, ipc, uts and cgroup{except}")
}

/// Those of the host are only copied for who needs them, or may not leave them otherwise.
fn leave_mounts(plan: &Plan, flags: CloneFlags) -> io::Result<Mounts> {
    if plan.wants(Layer::Root) && plan.authority == Authority::Root {
        return mount_namespace::leave(flags, Maker::Another);
    }
    unshare(flags)?;
    Ok(Mounts::OfHost)
}

/// Sets the limits that vmm and warden share.
pub(crate) fn set_resource_limits(plan: &Plan) -> io::Result<()> {
    limit_resources(MOST_DESCRIPTORS, most_processes(plan), 0)
}

/// Limits descriptors, processes and bytes of locked memory, and forbids core dumps and message queues.
pub(crate) fn limit_resources(descriptors: u64, processes: u64, locked_bytes: u64) -> io::Result<()> {
    let limits = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, descriptors),
        (Resource::RLIMIT_NPROC, processes),
        (Resource::RLIMIT_MEMLOCK, locked_bytes),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ];
    Ok(limits.into_iter().try_for_each(|(resource, limit)| setrlimit(resource, limit, limit))?)
}

/// Size of the largest regular file among these descriptors that can be written to: a disk, most likely.
fn largest_writable(descriptors: &[BorrowedFd<'_>]) -> io::Result<u64> {
    let mut largest = 0;
    for descriptor in descriptors {
        let flags = OFlag::from_bits_truncate(fcntl(descriptor, FcntlArg::F_GETFL)?);
        let status = fstat(descriptor)?;
        let is_file = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if is_file && flags & OFlag::O_ACCMODE != OFlag::O_RDONLY {
            largest = largest.max(u64::try_from(status.st_size).unwrap_or(0));
        }
    }
    Ok(largest)
}

/// The vmm's, and its warden, which has the same user id.
fn most_processes(plan: &Plan) -> u64 {
    u64::from(plan.limits.processes).saturating_add(1)
}

/// Sees to it that no capability can come back. Those in use stay until [`give_up_capabilities`].
pub(crate) fn forbid_capabilities() -> io::Result<()> {
    sys::empty_bounding_set()?;
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    sys::lock_securebits()
}

/// Gives up the capabilities in use.
pub(crate) fn give_up_capabilities() -> io::Result<()> {
    let (none, mut sets) = (CapabilitySet::empty(), rustix::thread::capabilities(None)?);
    (sets.effective, sets.permitted) = (none, none);
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Has the calling thread become user `uid` and group `gid`, with these groups beside.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}
