//! What options do, and what is said about a run.

use serde_json::Value;
use stockade_tests::test;

use crate::stockade::{NEEDS, finish, guest, run, run_as};

pub const LAYERS: [&str; 8] =
    ["cgroup", "namespaces", "root", "resource-limits", "capabilities", "uid", "landlock", "seccomp"];

#[test]
fn the_guest_is_as_asked() {
    test(NEEDS, |scratch| {
        let script = "nproc; grep MemTotal /proc/meminfo; pwd; echo $GREETING; hostname";
        let name = scratch.vm_name();
        let options = ["--cpus", "2", "--memory", "512M", "--workdir", "/tmp", "--env", "GREETING=hello world"];
        let finished = finish(run_as(&name, options.into_iter().chain(["--", "sh", "-c", script])));
        assert_eq!((finished.code, finished.error.as_str()), (0, ""));
        let lines: Vec<_> = finished.text().lines().collect();
        assert_eq!((lines[0], lines[2], lines[3], lines[4]), ("2", "/tmp", "hello world", name.as_str()));
        let kib: u64 = lines[1].split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((400 * 1024..512 * 1024).contains(&kib), "{kib} KiB");
    });
}

#[test]
fn kernel_and_initramfs_can_be_named() {
    test(NEEDS, |scratch| {
        let kernel = scratch.file("kernel", std::fs::read(guest("vmlinux")).unwrap());
        let initramfs = scratch.file("initramfs", std::fs::read(guest("initramfs.cpio")).unwrap());
        let options = ["--kernel", kernel.to_str().unwrap(), "--initramfs", initramfs.to_str().unwrap()];
        let finished = finish(run(scratch, options.into_iter().chain(["--", "echo", "named"])));
        assert_eq!((finished.code, finished.text()), (0, "named\n"));
    });
}

#[test]
fn a_report_has_phases_and_confinement() {
    test(NEEDS, |scratch| {
        let path = scratch.join("report.json");
        let finished = finish(run(scratch, ["--report", path.to_str().unwrap(), "--", "sh", "-c", "exit 4"]));
        assert_eq!((finished.code, finished.error.as_str()), (4, ""));
        let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(report["exit_code"], 4);
        assert_eq!(report["outcome"]["kind"], "exited");
        let phases: Vec<_> = report["phases"].as_array().unwrap().iter().map(|phase| &phase["phase"]).collect();
        let kernel = if report["start"]["kind"] == "warm" { "resume" } else { "kernel" };
        assert_eq!(phases, ["jail", "kvm", "load", kernel, "agent", "command", "stop"]);
        let confinement = report["confinement"].as_array().unwrap();
        for layer in LAYERS {
            let found = confinement.iter().find(|entry| entry["layer"] == layer);
            assert!(found.is_some_and(|entry| entry["enforced"] == true), "{layer}: {found:?}");
        }
        assert_eq!(report["warnings"], Value::Array(Vec::new()));

        let bad = scratch.join("no/such/folder");
        finish(run(scratch, ["--report", bad.to_str().unwrap(), "--", "true"])).expect_line(125, &["--report"]);
    });
}

#[test]
fn verbose_shows_the_time_of_each_phase_and_each_layer() {
    test(NEEDS, |scratch| {
        for (start, guest) in [(["--verbose"].as_slice(), "resume"), (&["--verbose", "--cold"], "kernel")] {
            let finished = finish(run(scratch, start.iter().copied().chain(["--", "true"])));
            assert_eq!(finished.code, 0);
            for word in ["jail", "kvm", "load", guest, "agent", "command"].into_iter().chain(LAYERS) {
                let line = format!("stockade: {word} ");
                assert!(finished.error.lines().any(|shown| shown.starts_with(&line)), "{word}: {}", finished.error);
            }
        }
    });
}

#[test]
fn a_layer_that_is_given_up_is_shown() {
    test(NEEDS, |scratch| {
        for layer in LAYERS {
            let path = scratch.join("report.json");
            let options = ["--without", layer, "--report", path.to_str().unwrap()];
            let finished = finish(run(scratch, options.into_iter().chain(["--", "echo", "ran"])));
            assert_eq!((finished.code, finished.text()), (0, "ran\n"), "{layer}: {}", finished.error);
            assert_eq!(finished.error, format!("stockade: the jail was built without {layer} (given up)\n"));
            let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let enforced = report["confinement"].as_array().unwrap().iter().filter(|entry| entry["enforced"] == true);
            assert_eq!(enforced.count(), LAYERS.len() - 1, "{layer}");
        }
    });
}
