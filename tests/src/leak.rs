//! The leak check: what a test must leave as it found it.
//!
//! Tests of other processes run at the same time, and make and remove the same kinds of things. What belongs to which is told
//! apart by a tag in every name, the test's process id; processes need none, because a test process is the reaper of
//! everything that it started, however often that forked.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

pub(crate) const TAG_PREFIX: &str = "stockade-test-";

/// How long things may take to go away by themselves: a warden cleans up after its client has gone.
const GRACE: Duration = Duration::from_secs(20);

/// The tag of this process's tests: part of the name of everything that they make.
pub fn own_tag() -> String {
    format!("{TAG_PREFIX}{}", std::process::id())
}

/// What was there on the host before a test.
#[derive(Debug)]
pub struct Host {
    things: BTreeSet<String>,
}

impl Host {
    /// Looks around, and makes this process the one that orphans of its tests go to.
    pub fn observe() -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("become the reaper of orphans");
        Self { things: things() }
    }

    /// Panics with a list of what is there now that wasn't before, once it has had time to go away.
    pub fn expect_unchanged(self) {
        let left = self.left_after(GRACE);
        for child in children() {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        assert!(left.is_empty(), "the test left behind:\n  {}", left.join("\n  "));
    }

    /// What is there that wasn't before, and is still there after this time.
    fn left_after(&self, grace: Duration) -> Vec<String> {
        let deadline = Instant::now() + grace;
        loop {
            let left: Vec<String> = things().difference(&self.things).cloned().chain(remaining_children()).collect();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Everything on the host that a test could leave behind, but processes. One line each.
fn things() -> BTreeSet<String> {
    let mut things = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    things.extend(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| format!("mount {point}")));
    let descriptors = Path::new("/proc").join(std::process::id().to_string()).join("fd");
    for path in entries(&descriptors) {
        let target = std::fs::read_link(&path).unwrap_or_default();
        // But for the one by which the folder itself is read.
        if target != descriptors {
            things.insert(format!("descriptor {} of the test: {}", path.display(), target.display()));
        }
    }
    let run = Path::new("/run/stockade");
    things.extend(entries(run).chain(entries(&run.join("vms"))).map(|path| format!("entry {}", path.display())));
    for controller in entries(Path::new("/sys/fs/cgroup")).chain([Path::new("/sys/fs/cgroup").into()]) {
        let cgroups = entries(&controller.join("stockade")).filter(|path| path.is_dir());
        things.extend(cgroups.map(|path| format!("cgroup {}", path.display())));
    }
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("read /proc/net/unix");
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7));
    things.extend(names.filter(|name| name.contains("stockade")).map(|name| format!("socket {name}")));
    let own = own_tag();
    things.retain(|thing| !thing.contains(TAG_PREFIX) || thing.contains(&own));
    // They outlive VMs on purpose.
    const LASTING: [&str; 5] = [
        "entry /run/stockade/vms",
        "entry /run/stockade/uids",
        "entry /run/stockade/mounts",
        "mount /run/stockade/mounts",
        "mount /run/stockade/mounts/empty",
    ];
    things.retain(|thing| !LASTING.contains(&thing.as_str()));
    things
}

fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

/// Reaps the children that have ended, and describes those that haven't.
fn remaining_children() -> Vec<String> {
    let mut remaining = Vec::new();
    for child in children() {
        let pid = Pid::from_raw(child);
        let ended = waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some());
        if !ended {
            let command = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            remaining.push(format!("process {child}: {}", command.replace('\0', " ")));
        }
    }
    remaining
}

/// Process ids of the children of this process, adopted ones included.
fn children() -> Vec<i32> {
    let own = std::process::id().to_string();
    entries(Path::new("/proc"))
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .filter(|pid| crate::process::status_field(*pid, "PPid").is_some_and(|parent| parent == own))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::process::Command;
    use std::sync::PoisonError;

    use super::*;

    /// What the body leaves behind, while it keeps what it returns.
    fn left_by<T>(body: impl FnOnce() -> T) -> Vec<String> {
        let _turn = crate::ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Host::observe();
        let kept = body();
        let left = before.left_after(Duration::ZERO);
        drop(kept);
        for child in children() {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        assert_eq!(before.left_after(GRACE), [""; 0], "all is gone in the end");
        left
    }

    fn assert_only(left: &[String], text: &str) {
        assert!(left.len() == 1 && left.iter().all(|thing| thing.contains(text)), "not {text}: {left:?}");
    }

    #[test]
    fn nothing_is_left_of_nothing() {
        assert_eq!(left_by(|| Command::new("true").status().unwrap()), [""; 0]);
    }

    #[test]
    fn orphans_are_found() {
        assert_only(&left_by(|| Command::new("sh").args(["-c", "sleep 1000 >&2 &"]).status().unwrap()), "sleep 1000");
    }

    #[test]
    fn descriptors_are_found() {
        assert_only(&left_by(|| std::fs::File::open("/etc/passwd").unwrap()), "/etc/passwd");
    }

    #[test]
    fn sockets_are_found() {
        let name = format!("{}-socket", own_tag());
        let left = left_by(|| UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap());
        assert!(left.iter().any(|thing| thing.starts_with("socket ") && thing.contains(&name)), "{left:?}");
    }
}
