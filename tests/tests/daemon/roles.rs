//! The daemon's process that parses what clients write: how it is confined, and what its death does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stockade_tests::{guest, process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

pub fn control(daemon: &Daemon) -> i32 {
    wait_for("control", || {
        process::children(daemon.pid()).into_iter().find(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with("stockaded: control")
        })
    })
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
