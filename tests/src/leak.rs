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

const TAG_PREFIX: &str = "stockade-test-";

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
        let deadline = Instant::now() + GRACE;
        loop {
            let left: Vec<String> = things().difference(&self.things).cloned().chain(remaining_children()).collect();
            if left.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                for child in children() {
                    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
                }
                panic!("the test left behind:\n  {}", left.join("\n  "));
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
    for path in entries(Path::new("/proc/self/fd")) {
        // The descriptor by which the folder itself is read is gone already.
        if let Ok(target) = std::fs::read_link(&path) {
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
    // Both outlive VMs on purpose.
    things.retain(|thing| thing != "entry /run/stockade/vms" && thing != "entry /run/stockade/uids");
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
