//! What there is of a daemon on the host, and whether it belongs together.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use stockade_tests::{leak, process};

use crate::daemon::Daemon;

/// The user whose lease is byte 0 of the file with leases.
const FIRST_UID: u32 = 0x7000_0001;
const LEASES: &str = "/run/stockade/uids";

/// Processes that come from this test.
#[derive(Debug, Default)]
pub struct Processes {
    pub parents: BTreeSet<i32>,
    /// By name.
    pub roles: BTreeMap<String, Vec<i32>>,
    pub wardens: BTreeSet<i32>,
    /// Process and parent, by the name of the jail.
    pub vmms: BTreeMap<String, Vec<(i32, i32)>>,
}

impl Processes {
    /// Looks at all of them.
    pub fn observe() -> Self {
        let mut found = Self::default();
        for (pid, parent) in descendants() {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = command.split('\0');
            let name = arguments.next().unwrap_or_default();
            if let Some(role) = name.strip_prefix("stockaded: ") {
                found.roles.entry(role.to_owned()).or_default().push(pid);
            } else if name == "stockade-jailer" {
                found.wardens.insert(pid);
            } else if name.ends_with("stockaded") {
                found.parents.insert(pid);
            } else if arguments.any(|argument| argument == "--id") {
                let jail = arguments.next().unwrap_or_default().to_owned();
                found.vmms.entry(jail).or_default().push((pid, parent));
            }
        }
        found
    }

    /// The roles of one of the parents, each with its name.
    pub fn roles_of(&self, parent: i32) -> Vec<(String, Victim)> {
        let is_its = |pid: i32| process::status_field(pid, "PPid").is_some_and(|of| of == parent.to_string());
        let held = self.roles.iter().flat_map(|(role, pids)| pids.iter().map(move |pid| (role.clone(), *pid)));
        let held = held.filter_map(|(role, pid)| Some((role, Victim::hold(pid)?)).filter(|_| is_its(pid)));
        held.collect()
    }
}

/// Takes note of the ends of processes whose parents died before them; those of the daemon itself are left to who waits for it.
pub fn reap(daemon: i32) {
    let own = std::process::id().to_string();
    for child in descendants().into_iter().filter(|(pid, parent)| parent.to_string() == own && *pid != daemon) {
        let _ = waitpid(nix::unistd::Pid::from_raw(child.0), Some(WaitPidFlag::WNOHANG));
    }
}

/// A process that may be killed. It is held, so that nobody else is killed who gets its number.
pub struct Victim(OwnedFd);

impl Victim {
    fn hold(pid: i32) -> Option<Self> {
        pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok().map(Self)
    }

    /// The vmm of one that runs, and its warden.
    pub fn of(vm: &Value) -> Option<[Self; 2]> {
        let pid = i32::try_from(vm["pid"].as_i64()?).ok()?;
        let vmm = Self::hold(pid)?;
        let warden = process::status_field(pid, "PPid")?.parse().ok()?;
        Some([vmm, Self::hold(warden)?])
    }

    /// Kills it, if it is still there.
    pub fn kill(&self) -> bool {
        pidfd_send_signal(&self.0, Signal::KILL).is_ok()
    }
}

/// Every process that this one has started, or that one of those has, with its parent.
fn descendants() -> Vec<(i32, i32)> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = |pid: i32| Some((pid, process::status_field(pid, "PPid")?.parse::<i32>().ok()?));
    let parents: BTreeMap<i32, i32> = all.filter_map(parent).collect();
    let own = i32::try_from(std::process::id()).unwrap();
    let is_ours = |pid: i32| std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).any(|pid| pid == own);
    parents.iter().map(|(pid, parent)| (*pid, *parent)).filter(|(pid, _)| *pid != own && is_ours(*pid)).collect()
}

/// What does not belong together when nothing is under way: `vms` are the daemon's words about all of its virtual machines.
pub fn faults(daemon: &Daemon<'_>, vms: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |what: &str, found: BTreeSet<String>, known: &BTreeSet<String>| {
        faults.extend(found.difference(known).map(|one| format!("{what} without a record: {one}")));
        faults.extend(known.difference(&found).map(|one| format!("record without {what}: {one}")));
    };
    let text = |vm: &Value, field: &str| vm[field].as_str().map(str::to_owned);
    let jails: BTreeSet<String> = vms.iter().filter_map(|vm| text(vm, "jail")).collect();
    let processes = Processes::observe();

    // One record for each process, and one process for each record.
    let of_records = vms.iter().filter_map(|vm| Some(format!("{} {}", text(vm, "jail")?, vm["pid"])));
    let of_host =
        processes.vmms.iter().flat_map(|(jail, pids)| pids.iter().map(move |(pid, _)| format!("{jail} {pid}")));
    expect("vmm", of_host.collect(), &of_records.collect());
    let parents = processes.vmms.values().flatten().map(|(_, parent)| parent.to_string()).collect();
    expect("vmm's parent", processes.wardens.iter().map(i32::to_string).collect(), &parents);
    expect("parent", processes.parents.iter().map(i32::to_string).collect(), &[daemon.pid().to_string()].into());

    // What a jail has on the host.
    let run = daemon.run_directory();
    expect("jail", names(&run.join("vms")), &jails);
    expect("journal", names(&run.join("daemon/journals")), &jails);
    for hierarchy in hierarchies() {
        let own = names(&hierarchy.join("stockade")).into_iter().filter(|name| name.starts_with(&leak::own_tag()));
        expect(&format!("group in {}", hierarchy.display()), own.collect(), &jails);
    }
    let sockets = ["api.sock", "warden.sock"];
    let of_jails = jails.iter().flat_map(|jail| sockets.map(|socket| format!("vms/{jail}/{socket}")));
    expect("socket", bound_sockets(&run), &of_jails.chain(["control.sock".to_owned()]).collect());
    let owners = jails.iter().filter_map(|jail| owner(&run.join("vms").join(jail))).collect();
    expect("lease", processes.wardens.iter().flat_map(|pid| leases(*pid)).collect(), &owners);

    // What a virtual machine has, whether it runs or not.
    let ids: BTreeSet<String> = vms.iter().map(|vm| vm["id"].to_string()).collect();
    expect("file", names(&run.join("daemon/vms")), &ids.iter().map(|id| format!("{id}.json")).collect());
    let consoles: BTreeSet<String> =
        names(&run.join("daemon/consoles")).iter().map(|name| name.trim_end_matches(".input").to_owned()).collect();
    faults.extend(consoles.difference(&ids).map(|id| format!("console without a record: {id}")));

    let roles = processes.roles.iter().filter(|(_, pids)| pids.len() != 1);
    faults.extend(roles.map(|(role, pids)| format!("more than one {role}: {pids:?}")));
    if owners.len() != jails.len() {
        faults.push(format!("two jails of one user: {owners:?}"));
    }
    faults.extend(descriptor_faults(daemon.pid(), &jails));
    faults
}

/// What the daemon has open that it has no use for.
fn descriptor_faults(daemon: i32, jails: &BTreeSet<String>) -> Vec<String> {
    const OF_MACHINES: [&str; 6] = ["/daemon/consoles/", ".kernel", ".disk", "/dev/kvm", LEASES, "memfd:"];
    let links: Vec<String> = descriptors(daemon).into_iter().map(|(_, link)| link).collect();
    let useless = links.iter().filter(|link| {
        let journal = link.split_once("/daemon/journals/").map(|(_, jail)| jail.trim_end_matches(" (deleted)"));
        OF_MACHINES.iter().any(|part| link.contains(part)) || journal.is_some_and(|jail| !jails.contains(jail))
    });
    let mut faults: Vec<_> = useless.map(|link| format!("the daemon has open: {link}")).collect();
    // The vmm's and the jailer's of each machine, and the roles'.
    let processes = links.iter().filter(|link| link.contains("pidfd")).count();
    if processes > 2 * jails.len() + 4 {
        faults.push(format!("the daemon holds {processes} processes, of {} jails", jails.len()));
    }
    faults
}

/// Open descriptors of a process that may have ended: number and what they lead to.
fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let number = path.file_name()?.to_str()?.parse().ok()?;
        Some((number, std::fs::read_link(path).ok()?.display().to_string()))
    };
    std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(of).collect()
}

/// Users that this warden has leased.
fn leases(warden: i32) -> Vec<String> {
    let of_descriptor = |(number, link): (i32, String)| {
        let information = std::fs::read_to_string(format!("/proc/{warden}/fdinfo/{number}")).unwrap_or_default();
        let locks = information.lines().filter(|line| line.starts_with("lock:")).map(str::to_owned);
        if link == LEASES { locks.collect::<Vec<_>>() } else { Vec::new() }
    };
    let locks = descriptors(warden).into_iter().flat_map(of_descriptor);
    // lock:	1: OFDLCK ADVISORY  WRITE -1 00:1b:1130 7 7
    let first_byte = |line: String| line.split_whitespace().rev().nth(1)?.parse::<u32>().ok();
    locks.filter_map(first_byte).map(|byte| (FIRST_UID + byte).to_string()).collect()
}

/// Sockets with a name below this folder, which is left out.
fn bound_sockets(folder: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/net/unix").unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(7));
    let below = names.filter_map(|name| Path::new(name).strip_prefix(folder).ok());
    // A vmm closes the one that its guest has no device for. The daemon's is moved to its place once it is ready.
    below
        .filter(|name| !name.ends_with("vsock.sock"))
        .map(|name| name.display().to_string().replace("control.new", "control.sock"))
        .collect()
}

fn owner(path: &Path) -> Option<String> {
    Some(std::fs::symlink_metadata(path).ok()?.uid().to_string())
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir() || !folder.starts_with("/sys"))
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Hierarchies of control groups in which there are jails.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    ["memory", "cpu", "pids"].map(|controller| root.join(controller)).into()
}
