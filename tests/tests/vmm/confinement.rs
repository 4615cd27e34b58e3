//! A vmm confines itself, whoever starts it.

use std::process::Command;

use serde_json::json;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::process;
use stockade_tests::vmm::{Builder, Vmm};
use stockade_tests::{Need, program, test, wait_for};

const FILTER: &str = "2";

#[test]
fn every_thread_has_its_filter() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Pvh);
        vmm.put("/machine-config", &json!({ "vcpu_count": 3, "mem_size_mib": 64 }));
        vmm.put(
            "/drives/a",
            &json!({ "drive_id": "a", "path_on_host": scratch.file("disk", [0; 512]), "is_root_device": false }),
        );
        vmm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": scratch.join("vsock") }));
        vmm.start_guest();
        vmm.console().wait_for("idle");
        let filters = process::thread_status(vmm.pid(), "Seccomp");
        assert_eq!(filters.len(), 5, "one for the events, one for the API, three processors: {filters:?}");
        assert!(filters.iter().all(|(_, mode)| mode == FILTER), "{filters:?}");
        let privileges = process::thread_status(vmm.pid(), "NoNewPrivs");
        assert!(privileges.iter().all(|(_, value)| value == "1"), "{privileges:?}");
    });
}

/// A client can connect before, but nothing is sent here that the filters could come after.
#[test]
fn the_filters_are_there_before_the_first_request() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).start();
        let client = vmm.connect();
        wait_for("the filters of events and API", || {
            let filters = process::thread_status(vmm.pid(), "Seccomp");
            (filters.len() == 2 && filters.iter().all(|(_, mode)| mode == FILTER)).then_some(())
        });
        drop(client);
    });
}

#[test]
fn filters_can_be_given_up_by_name_only() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).argument("--no-seccomp").start();
        assert_eq!(vmm.request("GET", "/", "").status, 200);
        assert_eq!(process::status_field(vmm.pid(), "Seccomp").as_deref(), Some("0"));
    });
}

#[test]
fn descriptors_are_closed_on_execution() {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Pvh);
        vmm.start_guest();
        vmm.console().wait_for("idle");
        // Whoever started the tests may have left some open for everybody.
        let inherited = process::descriptors(std::process::id() as i32);
        for (number, target) in process::descriptors(vmm.pid()) {
            if number <= 2 || inherited.contains(&(number, target.clone())) {
                continue;
            }
            let information = std::fs::read_to_string(format!("/proc/{}/fdinfo/{number}", vmm.pid())).unwrap();
            let flags = information.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let flags = u32::from_str_radix(flags, 8).unwrap();
            assert_ne!(flags & CLOSE_ON_EXEC, 0, "descriptor {number}, {target}");
        }
    });
}

/// As it would be if the jailer were wrong, or somebody had taken its place.
#[test]
fn a_vmm_that_is_not_in_the_jail_it_was_told_of_does_not_run() {
    test(&[], |scratch| {
        let socket = scratch.join("api");
        let expected = "capabilities,uid=1879048193:1879048193,seccomp";
        // A sealed jail's jailer says it on the command line, the other in the environment.
        for by_environment in [false, true] {
            let mut command = Command::new(program("stockade-vmm"));
            match by_environment {
                true => command.env("STOCKADE_CONFINED", expected),
                false => command.args(["--confined", expected]),
            };
            command.arg("--api-sock").arg(&socket);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("the jail is not what the jailer reported"), "{text}");
            assert!(!socket.exists(), "it listens");
        }
        let mut command = Command::new(program("stockade-vmm"));
        let output = command.env("STOCKADE_CONFINED", "x").arg("--api-sock").arg(&socket).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(153), "{text}");
        assert!(text.contains("STOCKADE_CONFINED: \"x\" is no layer of a jail"), "{text}");
    });
}
