//! Sealed jails as they really are: the jailer's program builds them around a prisoner, who tells what it found there.
//!
//! Everything here needs root, and fails without.

#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;
mod violations;

use std::fs::File;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use stockade_confinement::{Confinement, Process, Record, State, Verdict, identity};
use stockade_jailer::console::read_tail;
use stockade_jailer::plan::{Layer, WARDEN_GID};
use stockade_jailer::warden::{self, ProcessEnd};

use harness::{Jail, status_of, wait_for_end};

#[test]
fn the_vmm_finds_itself_with_nothing() {
    let mut jail = Jail::build_with("report 8 exit 7", |plan| plan.without = vec![Layer::Seccomp]);
    let (uid, id) = (jail.uid, jail.id.clone());
    let (_, confinement) = jail.confined();
    // A build without filters says so.
    let enforced = confinement.iter().filter(|report| report.layer != Layer::Seccomp).all(|report| report.enforced);
    assert!(enforced, "{confinement:?}");
    let mut layers: Vec<_> = confinement.iter().map(|report| report.layer.name()).collect();
    let mut all = Layer::ALL.map(Layer::name);
    layers.sort_unstable();
    all.sort_unstable();
    assert_eq!(layers, all);
    assert_eq!(
        jail.report(),
        json!({
            "user": [uid, uid, uid],
            "group": [uid, uid, uid],
            "groups": 0,
            "capabilities": {"effective": 0, "permitted": 0, "inheritable": 0, "bounding": 0, "ambient": 0},
            "no_new_privs": true,
            "executable_memory_refused": true,
            "securebits": 0b1110_1011,
            "death_signal": 9,
            "process": 1,
            "parent": 0,
            "host_name": id,
            "environment": 0,
            "descriptors": [8, 9],
            "root": {"Err": 13},
            "core": [0, 0],
            "locked": [0, 0],
            "open": [4096, 4096],
        })
    );
    assert_eq!(jail.ended(), (ProcessEnd::Exited(7), "exited with code 7".to_owned()));
}

#[test]
fn the_kernel_confirms_what_is_in_force() {
    let jail = Jail::build("sleep");
    let (vmm, _) = jail.confined();
    let warden = Pid::from_raw(jail.warden.id().try_into().unwrap());
    let own = |pid: Pid, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(own(vmm, kind), own(Pid::this(), kind), "{kind}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{vmm}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    let limits = std::fs::read_to_string(format!("/proc/{vmm}/limits")).unwrap();
    for (limit, value) in [("Max data size", 64 << 20), ("Max msgqueue size", 0)] {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit)).unwrap();
        assert_eq!(line.split_whitespace().next(), Some(value.to_string().as_str()), "{limit}{line}");
    }
    for process in [vmm, warden] {
        assert_eq!(status_of(process, "Uid:"), vec![jail.uid.to_string(); 4].join(" "));
        assert_eq!(status_of(process, "NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(status_of(process, set), "0000000000000000", "{set}");
        }
    }
    assert_eq!(status_of(warden, "Groups:"), WARDEN_GID.to_string());
    let cgroups = std::fs::read_to_string(format!("/proc/{vmm}/cgroup")).unwrap();
    let ours = cgroups.lines().filter(|line| line.ends_with(&format!("/stockade/{}", jail.id))).count();
    assert_eq!(ours, jail.cgroups().len(), "{cgroups}");
    assert!(ours > 0);
    jail.send(br#"{"command":"kill"}"#);
    assert_eq!(jail.ended().0, ProcessEnd::Signaled(9));
}

/// Every attempt fails, with all layers but the one that would end the prisoner at its first.
#[test]
fn a_vmm_in_a_strangers_hands_reaches_nothing() {
    let mut jail = Jail::build_with(&format!("attempt 8 {}", std::process::id()), |plan| {
        plan.without = vec![Layer::Seccomp];
    });
    let (_, confinement) = jail.confined();
    let given_up: Vec<_> = confinement.iter().filter(|report| !report.enforced).map(|report| report.layer).collect();
    assert_eq!(given_up, [Layer::Seccomp]);
    let report = jail.report();
    let attempts = report.as_object().unwrap();
    assert_eq!(attempts.len(), 16);
    for (attempt, errno) in attempts {
        assert!(errno.is_number(), "{attempt} succeeded: {report}");
    }
    assert_eq!(jail.ended().0, ProcessEnd::Exited(0));
}

#[test]
fn the_console_is_kept_in_a_ring() {
    let mut jail = Jail::build_with("say 9 Linux-version report 8 sleep", |plan| plan.without = vec![Layer::Seccomp]);
    jail.confined();
    let console = File::open(jail.run_directory().join("console")).unwrap();
    jail.report();
    jail.send(&serde_json::to_vec(&warden::Command::Kill).unwrap());
    jail.ended();
    assert_eq!(read_tail(&console, 100).unwrap(), b"Linux-version");
}

#[test]
fn a_supervisor_that_dies_takes_everything_with_it() {
    let mut jail = Jail::build("sleep");
    jail.confined();
    jail.control = None;
    assert!(jail.warden.wait().unwrap().success());
    jail.expect_nothing_left();
}

#[test]
fn a_vmm_that_is_killed_is_cleaned_up_after() {
    let jail = Jail::build("sleep");
    let (vmm, _) = jail.confined();
    kill(vmm, Signal::SIGKILL).unwrap();
    assert_eq!(jail.ended().0, ProcessEnd::Signaled(9));
}

#[test]
fn a_warden_can_be_stopped_and_continued() {
    let jail = Jail::build("sleep");
    jail.confined();
    let pid = Pid::from_raw(i32::try_from(jail.warden.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    while !["T", "t"].iter().any(|stopped| status_of(pid, "State:").starts_with(stopped)) {
        std::thread::yield_now();
    }
    kill(pid, Signal::SIGCONT).unwrap();
    jail.send(&serde_json::to_vec(&warden::Command::Kill).unwrap());
    assert_eq!(jail.ended().0, ProcessEnd::Signaled(9));
}

#[test]
fn a_warden_that_is_killed_takes_its_vmm_with_it() {
    let mut jail = Jail::build("sleep");
    let (vmm, _) = jail.confined();
    jail.warden.kill().unwrap();
    jail.warden.wait().unwrap();
    wait_for_end(vmm);
    assert_eq!(jail.event(), None);
    assert_ne!(jail.cgroups(), [] as [PathBuf; 0]);
    assert_eq!(stockade_jailer::cgroup::sweep(&jail.id), [] as [String; 0]);
    std::fs::remove_dir_all(jail.run_directory()).unwrap();
    jail.expect_nothing_left();
}

#[test]
fn each_layer_can_be_given_up_by_name() {
    for layer in Layer::ALL {
        let jail = Jail::build_with("exit 0", |plan| {
            plan.without = vec![layer];
        });
        let (_, confinement) = jail.confined();
        for report in &confinement {
            assert_eq!(report.enforced, report.layer != layer, "{report:?}");
        }
        assert_eq!(confinement.len(), Layer::ALL.len());
        assert_eq!(jail.ended().0, ProcessEnd::Exited(0), "{layer:?}");
    }
}

/// What is to be said of a jail whose vmm is asleep.
fn verdict(jail: &Jail) -> Verdict {
    let record = Record::read(&jail.run_directory()).unwrap();
    let process = Process::open(record.pid).unwrap();
    assert_eq!(identity(process.descriptor().unwrap()).unwrap(), record.identity);
    assert_eq!(
        (record.uid, record.id.as_str(), record.warden()),
        (jail.uid, jail.id.as_str(), Some(jail.warden.id() as i32))
    );
    Verdict::on(&Confinement::read(&process).unwrap(), Some(&record))
}

fn state(verdict: &Verdict, layer: Layer) -> State {
    verdict.layers.iter().find(|found| found.layer == layer).unwrap().state
}

/// Whoever looks at a jail sees what is in force, and what isn't.
#[test]
fn an_inspection_finds_each_layer_and_misses_the_one_that_was_given_up() {
    let jail = Jail::build("sleep");
    jail.confined();
    let all = verdict(&jail);
    for layer in Layer::ALL {
        // The prisoner never asks for more filters than the first, as a vmm does.
        let expected = if layer == Layer::Seccomp { State::Weak } else { State::On };
        assert_eq!(state(&all, layer), expected, "{all:#?}");
    }
    jail.send(br#"{"command":"kill"}"#);
    jail.ended();

    for layer in Layer::ALL {
        let jail = Jail::build_with("sleep", |plan| plan.without = vec![layer]);
        jail.confined();
        let verdict = verdict(&jail);
        for other in Layer::ALL {
            let state = state(&verdict, other);
            // Nothing of these is left without them.
            let is_off = matches!(other, Layer::Uid | Layer::Landlock | Layer::Seccomp | Layer::ResourceLimits);
            match other == layer {
                true if is_off => assert_eq!(state, State::Off, "{verdict:#?}"),
                true => assert_ne!(state, State::On, "{verdict:#?}"),
                false if other == Layer::Seccomp => assert_eq!(state, State::Weak, "{verdict:#?}"),
                false => assert_eq!(state, State::On, "without {layer:?}: {verdict:#?}"),
            }
        }
        jail.send(br#"{"command":"kill"}"#);
        jail.ended();
    }
}

#[test]
fn what_cannot_be_had_is_refused_and_undone() {
    // A name that is taken.
    let first = Jail::build("sleep");
    first.confined();
    let id = first.id.clone();
    let (layer, message) = Jail::build_with("sleep", |plan| plan.id = id).refused();
    assert_eq!(layer, Some(Layer::Cgroup));
    assert!(message.contains("--without cgroup"), "{message}");
    assert_ne!(first.cgroups(), [] as [PathBuf; 0]);
    first.send(br#"{"command":"kill"}"#);
    first.ended();
    // A program that is none.
    let (layer, message) = Jail::build_with("sleep", |plan| {
        std::mem::swap(&mut plan.executable, &mut plan.lease);
    })
    .refused();
    assert_eq!(layer, None);
    assert!(message.contains("execute"), "{message}");
}
