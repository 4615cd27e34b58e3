//! Compatible mode: the command line, the folders and the ways of Firecracker's jailer, for whoever has programs that start it.
//!
//! `stockade-jailer --id ID --exec-file VMM --uid N --gid N [OPTION...] -- VMM ARGUMENTS` makes the folder
//! `BASE/NAME/ID/root`, with NAME that of the vmm's program, and in it `/run` and the device nodes `/dev/kvm`, `/dev/net/tun`,
//! `/dev/urandom` and `/dev/userfaultfd`. It changes its root to that folder, and becomes the vmm: the same process, unless
//! `--daemonize` or `--new-pid-ns` say otherwise. `/NAME.pid` has the number of the process. What the folder has already stays
//! there, and what the host mounts or links in it later appears to the vmm.
//!
//! The vmm need not be Stockade's. Any of Firecracker's static ones runs.
//!
//! # What it adds
//! - Landlock: below the jail's folder a vmm may read, write and create files and sockets, and remove those; of devices it controls
//!   KVM, network devices and page faults. It executes nothing but its own program, uses no TCP or UDP port, and reaches no signal
//!   and no abstract socket outside.
//! - No capability in any set, securebits locked, no_new_privs, no supplementary group.
//! - IPC, UTS and cgroup namespaces.
//! - No core dump, no message queue, at most 8 MiB of locked memory, of which Firecracker's io_uring takes its rings, and a limit on
//!   the processes of the user.
//! - The jail's mounts are `nosuid` and `noexec`, and have no program: the vmm's is executed where it is installed, by descriptor.
//! - No memory that is writable and executable, or becomes executable, from Linux 6.3 on (PR_SET_MDWE).
//! - A launch filter, under which the vmm's own filters are.
//! - The program is checked, with every folder on the way to it, on the descriptor that is executed: a hard link, a folder or file
//!   that others write to, and a program that is not static are refused.
//! - `BASE/NAME/ID/confinement.json`, out of the vmm's reach and root's: what is in force. `stockade inspect PID` needs it for what
//!   the kernel shows nobody. Stockade's vmm compares itself with it before it does anything else, and doesn't run if they differ.
//! - A jail can be made again where one was, even if what was in it is hostile and still at work: nothing is reached through a link.
//! - What fails leaves nothing behind, and with `--daemonize` and `--new-pid-ns` whoever starts the jailer hears of it. Only a
//!   jailer that is killed halfway leaves what it has made by then: the same jail made again uses or replaces that, and
//!   `rm -r BASE/NAME/ID` and `rmdir` of the VM's control groups remove it.
//! - It does not copy the host's mounts but for the first jail since the host started, which leaves an empty mount namespace to all
//!   others: `/run/stockade/mounts/empty`. `umount -l /run/stockade/mounts` gives that up.
//!
//! # What differs
//! Firecracker's jailer copies the program into each jail. Here all vmms of one program share its pages, as the processes of any
//! program do, which saves the time to copy it and its size in memory for each of them: about 1.5 ms and 2 MiB for
//! `stockade-vmm`. Nothing of it can be written to by any of them. What can be seen of it:
//! - `BASE/NAME/ID/root/NAME` is not made, and if it is there, left as it is. Its place in the command line is as before: `/NAME`.
//! - `/proc/PID/exe` leads to the program where it is installed, and that file can't be written to while a vmm runs. To replace it,
//!   rename another one over it, as package managers do: vmms that run go on with the old one.
//! - A vmm that is taken over can find out which parts of the program other vmms have used lately, by how fast it reads the shared
//!   page itself ("Flush+Reload"). `--private-copy` makes a copy of root's in the jail, as Firecracker's jailer does, of which
//!   nobody else has a page, for hosts where that matters more than time and memory.
//!
//! A program that the vmm's user can't execute where it is, because of its mode or that of its mount (`noexec`), is copied, too.
//!
//! # What it gives up
//! Sealed mode ([`sealed`](crate::sealed)) has what compatibility forbids; `stockade doctor --attack --mode compatible` shows which
//! attempts succeed because of it, each with its reason:
//! - The root directory belongs to the vmm. It can fill the disk, up to `--resource-limit fsize=N` for each file and what quotas
//!   there are, and write another number to its pid file.
//! - The vmm opens paths and makes sockets. The launch filter has to let it, and it is as wide as Firecracker needs: io_uring is
//!   among that, and what that does with open files no filter sees. Stockade's vmm opens none once its guest runs, unless it was
//!   started with `--snapshot-files`, which clients need that have it make the files of snapshots (`PUT /snapshot/create`).
//! - The device nodes are in the jail: the vmm opens them itself, and may ask of them what it could of any it was handed.
//! - A disk may be made larger.
//! - Mounts that the host makes later in the jail have the flags that the host gives them.
//! - There is no warden: nobody reports how the vmm ended, keeps its console, or removes its folder and control groups.
//! - It lives on when whoever started it dies, and another process of its user that is in no jail may look into it,
//!   unless it forbids that, as Stockade's vmm does.
//! - Without `--netns` it is in the network namespace of the host, and without `--new-pid-ns` in its PID namespace. Signals and TCP
//!   are out of reach nevertheless; the network devices of the host are not hidden.
//! - Without `--cgroup` nothing limits memory and processor time.
//! - `--uid` is what the caller says, be it the same for several vmms.

pub mod arguments;
mod cgroups;
pub mod command_line;
mod devices;
pub mod executable;
mod hierarchies;
mod jail;
mod mounts;
mod process;
mod record;
mod tree;
mod undo;

use std::convert::Infallible;
use std::io;

use nix::sched::{CloneFlags, setns};
use nix::time::ClockId;
use nix::unistd::geteuid;
use rustix::fs::{CWD, Mode, OFlags, openat};

use self::arguments::Arguments;
use self::cgroups::Cgroups;
use self::executable::Executable;
use self::jail::{Filled, Jail};
use self::process::{Part, Vmm, now_us};
use self::tree::Tree;
pub use self::tree::TreeError;
use self::undo::Undo;
use crate::error::{JailError, Step};
use crate::sys;

/// Makes the jail and becomes the vmm in it, or has another process become it, which is what a return says.
///
/// # Errors
/// There is no vmm. What was made for it is removed.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let start_us = now_us(ClockId::CLOCK_MONOTONIC);
    let (jail, cgroups) = prepare(arguments).map_err(|error| error.explain())?;
    match process::split(arguments) {
        Ok(Part::Launcher(launcher)) => {
            jail.leave();
            launcher.wait()
        }
        Ok(Part::Vmm(vmm)) => {
            let Err(error) = become_vmm(jail, cgroups, &vmm, start_us);
            vmm.fail(error.explain())
        }
        Err((vmm, error)) => {
            drop(jail);
            vmm.fail(error.explain())
        }
    }
}

/// Everything that can be refused with nothing to undo comes first.
fn prepare(arguments: &Arguments) -> Result<(Jail<'_, Filled>, Cgroups), JailError> {
    if !geteuid().is_root() {
        return Err(io::Error::other("only root can; start it with sudo, as root")).step("make a jail");
    }
    sys::close_on_exec_from(3).step("close descriptors")?;
    let executable = Executable::open(&arguments.exec_file).map_err(io::Error::other);
    let executable = executable.step(format!("--exec-file {}", arguments.exec_file.display()))?;
    let base = Tree::base(&arguments.base).step("--chroot-base-dir")?;
    join_network(arguments)?;
    let mut undo = Undo::default();
    let cgroups = Cgroups::prepare(arguments, executable.name(), &mut undo)?;
    Ok((Jail::fill(arguments, &base, executable, undo)?, cgroups))
}

fn join_network(arguments: &Arguments) -> Result<(), JailError> {
    let Some(path) = &arguments.network else { return Ok(()) };
    let joined = openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|namespace| Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?));
    let explain = |error| io::Error::other(format!("{error}; give a network namespace, as ip netns add makes them"));
    joined.map_err(explain).step(format!("--netns {}", path.display()))
}

fn become_vmm(jail: Jail<'_, Filled>, cgroups: Cgroups, vmm: &Vmm, start_us: u64) -> Result<Infallible, JailError> {
    jail.isolate(cgroups)?.change_root()?.limit()?.drop_privileges()?.unveil()?.execute(vmm, start_us)
}
