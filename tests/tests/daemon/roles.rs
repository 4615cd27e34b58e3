//! The daemon's process that parses what clients write: how it is confined, and what its death does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stockade_tests::{guest, process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

/// The process of a role.
pub fn process_of(daemon: &Daemon, name: &str) -> i32 {
    wait_for(name, || {
        process::children(daemon.pid()).into_iter().find(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(&format!("stockaded: {name}\0"))
        })
    })
}

pub fn control(daemon: &Daemon) -> i32 {
    process_of(daemon, "control")
}

#[test]
fn control_has_nothing() {
    test(NEEDS, |scratch| {
        let daemon = Daemon::start(scratch, "");
        let pid = control(&daemon);
        let field = |name: &str| process::status_field(pid, name).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
        assert_eq!((field("Groups").as_str(), field("Threads").as_str()), ("", "1"));
        assert!(field("Uid").split_whitespace().all(|uid| uid != "0"));
        assert_eq!(std::fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 0);
        for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
        }
        assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    });
}

/// Each by its name, with the state of its layers.
fn inspected(daemon: &Daemon) -> Vec<(String, Vec<(String, String)>)> {
    let mut command = Command::new(stockade_tests::program("stockade"));
    command.args(["inspect", "--daemon", "--json", "--socket"]).arg(daemon.socket());
    let output = command.output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let roles: Vec<_> = found.as_array().unwrap().iter().map(role).collect();
    let is_confined =
        roles.iter().flat_map(|(_, layers)| layers).all(|(_, state)| state == "on" || state == "not-meant");
    assert_eq!(output.status.code(), Some(if is_confined { 0 } else { 3 }), "{found:#}");
    roles
}

fn role(found: &Value) -> (String, Vec<(String, String)>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let layers = found["verdict"]["layers"].as_array().unwrap().iter();
    (text(&found["record"]["id"]), layers.map(|layer| (text(&layer["layer"]), text(&layer["state"]))).collect())
}

#[test]
fn an_inspection_shows_what_confines_each_process_of_the_daemon() {
    test(NEEDS, |scratch| {
        let daemon = Daemon::start(scratch, "");
        let before = control(&daemon);
        let all = stockaded::roles::ROLES.len() + 1;
        let roles = wait_for("every process", || Some(inspected(&daemon)).filter(|roles| roles.len() == all));
        for (name, layers) in &roles {
            for (layer, state) in layers {
                let is_meant = match name.as_str() {
                    "parent" => ["capabilities", "seccomp"].contains(&layer.as_str()),
                    _ => layer != "cgroup",
                };
                assert_eq!(state, if is_meant { "on" } else { "not-meant" }, "{name}, {layer}: {layers:?}");
            }
        }
        let names: Vec<_> = roles.iter().map(|(name, _)| name.as_str()).collect();
        let expected = stockaded::roles::ROLES.iter().map(|role| role.name).chain(["parent"]);
        assert_eq!(names, expected.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>());
        let mut command = Command::new(stockade_tests::program("stockade"));
        let output = command.args(["inspect", "--daemon", "--socket"]).arg(daemon.socket()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("control: process {before}, ")), "{text}");
        assert!(text.contains("every layer that is meant for it is on"), "{text}");
        // The record goes with the process, and the next one has its own.
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        wait_for("another control", || daemon.try_request("GET", "version", None));
        assert_eq!(inspected(&daemon), roles);
    });
}

/// It is root, but not all that root is.
#[test]
fn the_parent_has_no_more_than_jailers_need() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        daemon.wait_for_state(&name, "running");
        let field = |name: &str| process::status_field(daemon.pid(), name).unwrap();
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
        let sets = ["CapPrm", "CapEff", "CapBnd"].map(|set| u64::from_str_radix(&field(set), 16).unwrap());
        assert!(sets[0] == sets[1] && sets[1] == sets[2], "{sets:x?}");
        // Modules, raw devices, raw sockets, interfaces, restarts, clocks, the log of the kernel, device nodes, bpf(2).
        for capability in [16, 17, 13, 12, 22, 25, 34, 27, 39] {
            assert_eq!(sets[2] >> capability & 1, 0, "{capability}");
        }
        assert_eq!((field("CapInh").as_str(), field("CapAmb").as_str()), ("0000000000000000", "0000000000000000"));
        // Whoever is below it has its filter, too.
        let vmm = wait_for("a vmm", || {
            let below = process::children(daemon.pid()).into_iter().flat_map(process::children);
            below.into_iter().find(|pid| process::status_field(*pid, "Name").as_deref() == Some("stockade-vmm"))
        });
        let filters = wait_for("filters", || {
            let filters = process::thread_status(vmm, "Seccomp_filters");
            filters.iter().all(|(_, number)| number.parse::<u32>().unwrap() >= 3).then_some(filters)
        });
        assert!(!filters.is_empty());
    });
}

#[test]
fn control_is_started_again_and_virtual_machines_do_not_notice() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        let vm = daemon.wait_for_state(&name, "running");
        // Somebody waits for the end of it.
        let mut client = UnixStream::connect(daemon.socket()).unwrap();
        let request = format!("POST /v1/vms/{name}/wait HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        // An answer to a later one on another connection shows that the first was heard.
        let before = control(&daemon);
        daemon.get("version").ok();
        std::thread::sleep(std::time::Duration::from_millis(200));
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.contains("503") && text.contains("interrupted"), "{text:?}");
        wait_for("another control", || daemon.try_request("GET", "version", None));
        assert_ne!(control(&daemon), before);
        assert_eq!(daemon.vm(&name), vm);
    });
}

#[test]
fn nonsense_is_refused_and_harms_nobody() {
    test(NEEDS, |scratch| {
        let daemon = Daemon::start(scratch, "");
        let before = control(&daemon);
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
        let huge =
            format!("POST /v1/vms HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n{}", "x".repeat(70_000));
        for nonsense in ["hello\r\n\r\n", "GET\0\0\0\r\n\r\n", long.as_str(), huge.as_str()] {
            let mut client = UnixStream::connect(daemon.socket()).unwrap();
            let _ = client.write_all(nonsense.as_bytes());
            let _ = client.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer);
            assert!(!answer.starts_with(b"HTTP/1.1 2"));
        }
        assert_eq!(daemon.post_json("vms", serde_json::json!({ "nmae": "x" })).code(), "invalid_request");
        assert_eq!(daemon.post("version").code(), "method_not_allowed");
        assert_eq!(daemon.get("events?after=x").code(), "invalid_request");
        assert_eq!(control(&daemon), before);
    });
}
