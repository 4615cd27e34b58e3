//! The compatible jail, step by step. As in the [sealed one](crate::jail), each step consumes the jail that the one before it
//! returned, so the compiler refuses a jail whose steps are missing or out of order:
//!
//! | step | layers |
//! |---|---|
//! | [`fill`](Jail::fill) | what the folder has: folders, device nodes, and the program if that is copied |
//! | [`isolate`](Jail::isolate) | cgroup, namespaces |
//! | [`change_root`](Jail::change_root) | root, the pid file in it, and an empty record beside it |
//! | [`limit`](Jail::limit) | resource-limits |
//! | [`drop_privileges`](Jail::drop_privileges) | capabilities, uid |
//! | [`unveil`](Jail::unveil) | landlock, with which the record is written, and the last resource limit |
//! | [`execute`](Jail::execute) | seccomp, and the vmm |
//!
//! A jail that is dropped on the way is undone.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::AtFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::time::ClockId;
use nix::unistd::{execveat, sethostname};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use seccomp_filters::{Policy, Rights, Role, UnveilError, Veil};
use stockade_confinement::{Expectation, Record};

use super::arguments::{Arguments, Image, Session};
use super::cgroups::Cgroups;
use super::devices::{self, Use};
use super::executable::Executable;
use super::mounts;
use super::process::{Vmm, now_us};
use super::record::Draft;
use super::tree::{Tree, TreeError};
use super::undo::Undo;
use crate::error::{JailError, Step};
use crate::mount_namespace::{Maker, Mounts};
use crate::plan::{Layer, NamespaceKind};
use crate::{jail, mount_namespace, sys};

/// Most locked memory of the vmm's user. Firecracker's io_uring takes its rings from it.
pub(super) const LOCKED_BYTES: u64 = 8 << 20;
/// The namespaces that every vmm gets.
const NAMESPACES: [(NamespaceKind, CloneFlags); 3] = [
    (NamespaceKind::Ipc, CloneFlags::CLONE_NEWIPC),
    (NamespaceKind::Uts, CloneFlags::CLONE_NEWUTS),
    (NamespaceKind::Cgroup, CloneFlags::CLONE_NEWCGROUP),
];

/// With its folder complete, and held by root.
#[derive(Debug)]
pub(super) struct Filled {
    program: OwnedFd,
}
/// In control groups and namespaces of its own, with a view of its folder.
#[derive(Debug)]
pub(super) struct Isolated {
    view: OwnedFd,
    mounts: Mounts,
    program: OwnedFd,
}
/// In its folder, with the vmm's program.
#[derive(Debug)]
pub(super) struct Rooted(OwnedFd, Draft);
/// With resource limits, and a veil that is not dropped yet.
#[derive(Debug)]
pub(super) struct Limited(OwnedFd, Draft, Option<Veil>);
/// Another user, without capabilities.
#[derive(Debug)]
pub(super) struct Unprivileged(OwnedFd, Draft, Option<Veil>);
/// Without any path but those of the jail, and on record.
#[derive(Debug)]
pub(super) struct Unveiled(OwnedFd, Expectation);

/// A process on its way into its jail.
#[derive(Debug)]
pub(super) struct Jail<'a, State> {
    site: Site<'a>,
    state: State,
}

/// What every step knows.
#[derive(Debug)]
struct Site<'a> {
    arguments: &'a Arguments,
    /// Name of the vmm's program.
    name: OsString,
    folders: Folders,
    devices: Vec<(OwnedFd, Use)>,
    /// The host's `/proc` and `/dev/null`.
    processes: OwnedFd,
    null: OwnedFd,
    undo: Undo,
}

/// The folders that are held.
#[derive(Debug)]
struct Folders {
    /// The one around the root.
    vm: Tree,
    root: Tree,
    dev: Tree,
    net: Tree,
    run: Tree,
}

impl Site<'_> {
    fn wants(&self, layer: Layer) -> bool {
        self.arguments.wants(layer)
    }
}

/// Whose the vmm and its folders are.
pub(super) fn owner(arguments: &Arguments) -> (u32, u32) {
    if arguments.wants(Layer::Uid) { (arguments.uid, arguments.gid) } else { (0, 0) }
}

impl<State> Jail<'_, State> {
    /// Leaves what was made to another process.
    pub(super) fn leave(self) {
        self.site.undo.leave();
    }
}

impl<'a> Jail<'a, Filled> {
    /// Makes the jail's folder below `base`, and what is in it. What is there of an earlier jail is replaced, and everything else
    /// stays.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn fill(
        arguments: &'a Arguments,
        base: &Tree,
        executable: Executable,
        mut undo: Undo,
    ) -> Result<Self, JailError> {
        let flags = OFlags::CLOEXEC | OFlags::NOCTTY;
        let processes = openat(CWD, "/proc", flags | OFlags::PATH, Mode::empty()).step("open /proc")?;
        let null = openat(CWD, "/dev/null", flags | OFlags::RDWR, Mode::empty()).step("open /dev/null")?;
        let step = || format!("make the jail {} in --chroot-base-dir {}", arguments.id, base.path().display());
        let name = executable.name().to_owned();
        let folders = make_folders(arguments, base, &name, &mut undo).step(step())?;
        let program = image(arguments, executable, &folders.root, &mut undo).step(step())?;
        let devices = devices::make(&folders.dev, &folders.net, owner(arguments), &mut undo).step(step())?;
        let site = Site { arguments, name, folders, devices, processes, null, undo };
        Ok(Self { site, state: Filled { program } })
    }

    /// Joins the control groups, and leaves the namespaces of the host but for its network, and its processes if they are not
    /// left already.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn isolate(self, mut cgroups: Cgroups) -> Result<Jail<'a, Isolated>, JailError> {
        let Self { mut site, state: Filled { program } } = self;
        cgroups.join(&mut site.undo)?;
        let view = mounts::of_vmm(&site.folders.root).layer(Layer::Root, "take a view of the jail's folder")?;
        let own = NAMESPACES.into_iter().filter(|(kind, _)| site.arguments.wants_namespace(*kind));
        let flags = own.map(|(_, flag)| flag).collect();
        let left = match site.wants(Layer::Root) {
            true => mount_namespace::leave(flags, Maker::Own),
            false => unshare(flags).map(|()| Mounts::OfHost).map_err(io::Error::from),
        };
        let mounts = left.layer(Layer::Namespaces, "make namespaces")?;
        if site.arguments.wants_namespace(NamespaceKind::Uts) {
            sethostname(&site.arguments.id).layer(Layer::Namespaces, "set the host name")?;
        }
        Ok(Jail { site, state: Isolated { view, mounts, program } })
    }
}

/// Each is the user's alone, once it is given.
fn make_folders(arguments: &Arguments, base: &Tree, program: &OsStr, undo: &mut Undo) -> Result<Folders, TreeError> {
    let vm = base.descend(program, undo)?.descend(OsStr::new(&arguments.id), undo)?;
    let root = vm.hold(OsStr::new("root"), undo)?;
    root.expect_devices()?;
    let dev = root.hold(OsStr::new("dev"), undo)?;
    let net = dev.hold(OsStr::new("net"), undo)?;
    let run = root.hold(OsStr::new("run"), undo)?;
    Ok(Folders { vm, root, dev, net, run })
}

/// The file that is executed. One that the vmm's user can't execute where it is has to be copied, too. The copy is root's: the vmm
/// can remove it, but not change what it runs.
fn image(arguments: &Arguments, executable: Executable, root: &Tree, undo: &mut Undo) -> io::Result<OwnedFd> {
    let (uid, gid) = owner(arguments);
    if arguments.image == Image::Original && executable.runs_for(uid, gid) {
        return Ok(executable.into());
    }
    root.expect_executable()?;
    let mode = Mode::RUSR | Mode::XUSR | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    executable.copy_to(&root.create(executable.name(), mode, undo)?)?;
    mounts::of_copy(root, executable.name())
}

impl<'a> Jail<'a, Isolated> {
    /// Changes to the jail's folder as root directory, and says in it which process this is.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn change_root(self) -> Result<Jail<'a, Rooted>, JailError> {
        let Self { mut site, state: Isolated { view, mounts, program } } = self;
        let pid = write_pid_file(&mut site).step("write the pid file")?;
        let record = record(&mut site, pid).step("make a record of the jail")?;
        if site.wants(Layer::Root) {
            mount_namespace::enter(&view, mounts).layer(Layer::Root, "change the root")?;
        }
        Ok(Jail { site, state: Rooted(program, record) })
    }
}

/// The number is the host's, whatever PID namespace this process is in.
fn write_pid_file(site: &mut Site<'_>) -> io::Result<i32> {
    let pid = readlinkat(&site.processes, c"self", Vec::new())?;
    let mut name = site.name.clone();
    name.push(".pid");
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    site.folders.root.create(&name, mode, &mut site.undo)?.write_all(pid.as_bytes())?;
    pid.to_str().ok().and_then(|pid| pid.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn record(site: &mut Site<'_>, pid: i32) -> io::Result<Draft> {
    let file = site.folders.vm.create(OsStr::new(Record::FILE), Mode::RUSR, &mut site.undo)?;
    Draft::begin(file, pid, &site.folders.root)
}

impl<'a> Jail<'a, Rooted> {
    /// Makes the veil, sets resource limits, which are too narrow for making anything, and gives the folders to the vmm's user.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn limit(self) -> Result<Jail<'a, Limited>, JailError> {
        let Self { site, state: Rooted(program, record) } = self;
        let veil = site.wants(Layer::Landlock).then(|| veil(&site, &program)).transpose();
        let veil = veil.layer(Layer::Landlock, "prepare to hide everything but the jail's folder")?;
        if site.wants(Layer::ResourceLimits) {
            let limits = site.arguments.limits;
            jail::limit_resources(limits.descriptors, limits.processes, LOCKED_BYTES)
                .layer(Layer::ResourceLimits, "--resource-limit: set resource limits")?;
        }
        let (uid, gid) = owner(site.arguments);
        let Folders { root, dev, net, run, .. } = &site.folders;
        for folder in [net, dev, run, root] {
            folder.release(uid, gid).step(format!("give the jail's folders to --uid {uid} and --gid {gid}"))?;
        }
        Ok(Jail { site, state: Limited(program, record, veil) })
    }
}

/// What a vmm does with files: it reads and writes those in its jail, makes logs, snapshots and sockets there, and controls KVM,
/// network devices and page faults.
fn veil(site: &Site<'_>, program: &OwnedFd) -> io::Result<Veil> {
    let build = || {
        let files = Rights::READ_FILES | Rights::WRITE | Rights::CREATE_FILES;
        let mut veil = Veil::new()?.unveil_descriptor(&site.folders.root, files)?;
        veil = veil.unveil_descriptor(program, Rights::EXECUTE)?;
        for (device, used) in &site.devices {
            if *used == Use::Control {
                veil = veil.unveil_descriptor(device, Rights::CONTROL)?;
            }
        }
        Ok::<_, UnveilError>(veil)
    };
    build().map_err(io::Error::other)
}

impl<'a> Jail<'a, Limited> {
    /// Becomes the user of `--uid` and `--gid`, and gives up every capability and every way to get one.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn drop_privileges(self) -> Result<Jail<'a, Unprivileged>, JailError> {
        let Self { mut site, state: Limited(program, record, veil) } = self;
        site.undo.delegate().step("start a thread")?;
        if site.wants(Layer::Capabilities) {
            jail::forbid_capabilities().layer(Layer::Capabilities, "empty the capability sets")?;
        }
        if site.wants(Layer::Uid) {
            let Arguments { uid, gid, .. } = site.arguments;
            jail::become_user(*uid, *gid, &[]).layer(Layer::Uid, format!("become --uid {uid} and --gid {gid}"))?;
        }
        if site.wants(Layer::Capabilities) {
            jail::give_up_capabilities().layer(Layer::Capabilities, "give up capabilities")?;
        }
        prctl::set_no_new_privs().step("set no_new_privs")?;
        crate::jail::refuse_executable_memory().step("refuse executable memory")?;
        Ok(Jail { site, state: Unprivileged(program, record, veil) })
    }
}

impl<'a> Jail<'a, Unprivileged> {
    /// Gives up every path but those of the jail, and every port, signal and abstract socket outside. What there is to say of
    /// the jail is written down then, and after that its files are limited, which the record is not to be.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn unveil(self) -> Result<Jail<'a, Unveiled>, JailError> {
        let Self { site, state: Unprivileged(program, record, veil) } = self;
        let hidden = veil.map(|veil| veil.lock(Policy::Required)).transpose().map_err(io::Error::other);
        let hidden = hidden.layer(Layer::Landlock, "hide everything but the jail's folder")?;
        let expected = record.finish(site.arguments, hidden.as_ref()).step("write the record of the jail")?;
        if let Some(bytes) = site.arguments.limits.file_bytes {
            setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)
                .layer(Layer::ResourceLimits, format!("--resource-limit fsize={bytes}"))?;
        }
        Ok(Jail { site, state: Unveiled(program, expected) })
    }
}

impl Jail<'_, Unveiled> {
    /// Installs the launch filter and executes the vmm.
    ///
    /// # Errors
    /// The step that failed; there is no other return.
    pub(super) fn execute(self, vmm: &Vmm, start_us: u64) -> Result<Infallible, JailError> {
        let Self { site, state: Unveiled(program, expected) } = self;
        let arguments = vmm_arguments(&site, vmm, start_us).step("prepare the vmm's arguments")?;
        if site.arguments.session == Session::Own {
            let replaced = dup2_stdin(&site.null).and_then(|()| dup2_stdout(&site.null));
            replaced.and_then(|()| dup2_stderr(&site.null)).step("--daemonize: replace the standard streams")?;
        }
        sys::close_on_exec_from(3).step("close descriptors")?;
        if site.wants(Layer::Seccomp) {
            seccomp_filters::pledge(Role::LaunchCompatible)
                .map_err(io::Error::other)
                .layer(Layer::Seccomp, "install the launch filter")?;
        }
        let environment = CString::new(format!("{}={expected}", Expectation::VARIABLE)).map_err(io::Error::from);
        let environment = [environment.step("prepare the vmm's environment")?];
        let step = || format!("execute --exec-file {}", site.arguments.exec_file.display());
        execveat(&program, c"", &arguments, &environment, AtFlags::AT_EMPTY_PATH).step(step())
    }
}

fn vmm_arguments(site: &Site<'_>, vmm: &Vmm, start_us: u64) -> io::Result<Vec<CString>> {
    let mut path = OsString::from("/");
    path.push(&site.name);
    let processor_us = now_us(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    let own: [(&str, String); 4] = [
        ("--id", site.arguments.id.clone()),
        ("--start-time-us", start_us.to_string()),
        ("--start-time-cpu-us", processor_us.to_string()),
        ("--parent-cpu-time-us", vmm.processor_time_us().to_string()),
    ];
    let own = own.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value.into()]);
    let all = std::iter::once(path).chain(own).chain(site.arguments.vmm.iter().cloned());
    Ok(all.map(|argument| CString::new(argument.as_bytes())).collect::<Result<_, _>>()?)
}
