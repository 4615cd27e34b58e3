//! What tests leave that were killed themselves: virtual machines outlive who made them, and their daemons too.
//!
//! A test's folder is locked (flock(2)) for as long as its process lives. Whoever makes the next folder takes those that
//! nobody locks for dead, ends what still runs in them, and removes them. Nothing else is touched.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::leak::TAG_PREFIX;

/// How long what is ended may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// A folder of a test that lives.
#[derive(Debug)]
pub(crate) struct Claim(#[allow(dead_code, reason = "held, not used")] Flock<File>);

impl Claim {
    /// Locks a folder; `None` if it is somebody else's, or not there any more.
    pub(crate) fn on(folder: &Path) -> Option<Self> {
        let lock = Flock::lock(File::open(folder).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
        let (locked, there) = (lock.metadata().ok()?, std::fs::symlink_metadata(folder).ok()?);
        ((locked.dev(), locked.ino()) == (there.dev(), there.ino())).then_some(Self(lock))
    }
}

/// Ends and removes what tests have left that are dead.
pub fn sweep() {
    for folder in entries(&std::env::temp_dir()) {
        let is_tests = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TAG_PREFIX));
        if is_tests && let Some(_claim) = Claim::on(&folder) {
            sweep_folder(&folder);
        }
    }
}

/// First the daemon, which might start others; then the machines, whose wardens clean up.
fn sweep_folder(folder: &Path) {
    let run = folder.join("run");
    wait_until(|| daemons(&run).into_iter().map(kill).count() == 0);
    wait_until(|| {
        let machines = entries(&run.join("vms"));
        machines.iter().for_each(|machine| end(&machine.join("warden.sock")));
        machines.iter().all(|machine| !machine.join("warden.sock").exists())
    });
    let _ = std::fs::remove_dir_all(folder);
}

/// Processes that were started as the daemon of this folder.
fn daemons(run: &Path) -> Vec<i32> {
    let is_its = |pid: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<_> = command.split('\0').collect();
        let is_daemon = arguments.first().is_some_and(|program| program.ends_with("/stockaded"));
        is_daemon && arguments.windows(2).any(|pair| pair[0] == "--run-directory" && Path::new(pair[1]) == run)
    };
    let processes = entries(Path::new("/proc")).into_iter();
    processes.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).filter(is_its).collect()
}

fn kill(pid: i32) {
    if let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Has a warden end its machine. One that does not answer is dead, and its machine with it.
fn end(warden: &Path) {
    let connected = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).and_then(|socket| {
        connect(socket.as_raw_fd(), &UnixAddr::new(warden)?)?;
        send(socket.as_raw_fd(), br#"{"command":"kill"}"#, MsgFlags::MSG_NOSIGNAL)
    });
    if connected.is_err() {
        let _ = std::fs::remove_file(warden);
    }
}

fn wait_until(mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_done() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}
