//! Runs that start from a clone of a booted guest: the same as those that boot, and each one of its own.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use stockade_tests::{Scratch, distribution, program, test};

use crate::stockade::{Finished, NEEDS, finish, run};

/// Sees to it that a booted guest is kept, as `tools/build` does.
fn warm(directory: &Path) -> String {
    let mut command = Command::new(program("stockade"));
    let output = command.arg("warm").env("STOCKADE_BINARIES", directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// A run, and how its guest started.
fn start(scratch: &Scratch, options: &[&str]) -> (Finished, Value) {
    let path = scratch.join(&format!("{}.json", scratch.vm_name()));
    let report = ["--report", path.to_str().unwrap()];
    let finished = finish(run(scratch, report.iter().chain(options)));
    let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (finished, report)
}

fn phases(report: &Value) -> Vec<&str> {
    report["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect()
}

#[test]
fn clones_have_random_numbers_addresses_and_the_time_of_their_own() {
    test(NEEDS, |scratch| {
        warm(&distribution());
        assert!(warm(&distribution()).contains("kept already"), "made anew without need");
        // Random numbers from the kernel, a process's address space, and its AT_RANDOM (type 25 of the auxiliary vector).
        let script = "head -c 16 /dev/urandom | od -An -tx1; grep -m1 stack /proc/self/maps; \
                      od -An -tx8 -w16 /proc/self/auxv | grep '^ 0*19 '; date +%s; nproc; \
                      grep MemTotal /proc/meminfo; hostname";
        let mut different = [BTreeSet::new(), BTreeSet::new()];
        for _ in 0..2 {
            let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let (finished, report) = start(scratch, &["--", "sh", "-c", script]);
            let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            assert_eq!((finished.code, finished.error.as_str()), (0, ""));
            assert_eq!(report["start"]["kind"], "warm");
            assert_eq!(phases(&report), ["jail", "kvm", "load", "resume", "agent", "command", "stop"]);
            let lines: Vec<_> = finished.text().lines().collect();
            let [random, stack, _auxiliary, time, processors, memory, hostname] = lines[..] else {
                panic!("{lines:?}")
            };
            for (seen, value) in different.iter_mut().zip([random, stack]) {
                assert!(seen.insert(value.to_owned()), "two clones have the same {value}");
            }
            // The guest's second and the host's may begin at different moments.
            let time: u64 = time.parse().unwrap();
            assert!((before.saturating_sub(1)..=after + 1).contains(&time), "{time} is not in {before}..={after}");
            assert_eq!(processors, "1");
            let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!((200 * 1024..256 * 1024).contains(&kib), "{kib} KiB");
            assert_eq!(hostname, report["name"].as_str().unwrap());
        }
    });
}

#[test]
fn what_does_not_fit_boots() {
    test(NEEDS, |scratch| {
        // Programs and guest, but with a booted guest that others could have changed.
        let copy = scratch.join("dist");
        assert!(Command::new("cp").arg("-r").arg(distribution()).arg(&copy).status().unwrap().success());
        warm(&copy);
        let kept = copy.join("guest/warm-1-256M");
        std::fs::set_permissions(kept.join("state"), PermissionsExt::from_mode(0o666)).unwrap();
        let binaries = ["--binaries", copy.to_str().unwrap()];
        let (finished, report) = start(scratch, &[binaries[0], binaries[1], "--", "echo", "booted"]);
        assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "booted\n", ""));
        let because = report["start"]["because"].as_str().unwrap();
        assert!(because.contains("can be changed by others"), "{because}");
        assert_eq!(phases(&report), ["jail", "kvm", "load", "kernel", "agent", "command", "stop"]);
    });
}

#[test]
fn a_cold_run_is_the_same() {
    test(NEEDS, |scratch| {
        let (finished, report) = start(scratch, &["--cold", "--", "sh", "-c", "date +%s; echo error >&2; exit 3"]);
        assert_eq!((finished.code, finished.error.as_str()), (3, "error\n"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let time: u64 = finished.text().trim().parse().unwrap();
        assert!((now.saturating_sub(60)..=now + 1).contains(&time), "{time}, {now}");
        assert_eq!(report["start"]["because"], "--cold was given");
    });
}
