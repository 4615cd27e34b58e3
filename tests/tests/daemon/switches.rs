//! The daemon's process that knows the host's interfaces, in a network namespace of the test's own.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stockade_tests::{guest, process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};
use crate::roles::process_of;

const SWITCHES: &str = "switch \"lan\" { interface br-lan }
switch \"uplink\" { interface br-up }
switch \"loop\" { interface lo }
switch \"old\" {
    interface br-old
    disable
}
";

/// A network that is this thread's alone, and of what it starts.
fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// The link of a switch, once it is this.
fn wait_for_link(daemon: &Daemon<'_>, name: &str, expected: &Value) {
    wait_for(&format!("{name} to be {expected}: {}", daemon.get("switches").ok()), || {
        let switches = daemon.get("switches").ok();
        let found = switches["switches"].as_array().unwrap().iter().find(|switch| switch["name"] == name)?.clone();
        (found["link"] == *expected).then_some(())
    });
}

#[test]
fn net_has_nothing_but_its_socket() {
    test(NEEDS, |scratch| {
        own_network();
        let daemon = Daemon::start(scratch, SWITCHES);
        let pid = process_of(&daemon, "net");
        wait_for("its filter", || process::status_field(pid, "Seccomp").filter(|mode| mode == "2"));
        let field = |name: &str| process::status_field(pid, name).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("NoNewPrivs").as_str(), field("Groups").as_str(), field("Threads").as_str()), ("1", "", "1"));
        assert!(field("Uid").split_whitespace().all(|uid| uid != "0"));
        assert_eq!(std::fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 0);
        for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
            let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(pid), of(daemon.pid()), "{namespace}");
        }
        assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
        // The last columns are a socket's groups and number: one hears of links in the host's network, none is in its own.
        let sockets = |of: i32| {
            let table = std::fs::read_to_string(format!("/proc/{of}/net/netlink")).unwrap();
            let descriptors = process::descriptors(pid);
            let is_its = |line: &&str| {
                let inode = line.split_whitespace().last().unwrap();
                descriptors.iter().any(|(_, target)| *target == format!("socket:[{inode}]"))
            };
            let groups = |line: &str| line.split_whitespace().nth(3).unwrap().to_owned();
            table.lines().skip(1).filter(is_its).map(groups).collect::<Vec<_>>()
        };
        assert_eq!((sockets(daemon.pid()), sockets(pid)), (vec!["00000001".to_owned()], vec![]));
    });
}

#[test]
fn switches_are_what_the_host_has_in_their_place() {
    test(NEEDS, |scratch| {
        own_network();
        ip("link add br-lan mtu 9000 type bridge");
        let daemon = Daemon::start(scratch, SWITCHES);
        wait_for_link(&daemon, "lan", &json!({ "bridge": true, "up": false, "mtu": 9000 }));
        wait_for_link(&daemon, "uplink", &Value::Null);
        wait_for_link(&daemon, "loop", &json!({ "bridge": false, "up": false, "mtu": 65536 }));
        let said =
            |text: &str| wait_for(&format!("{text}: {}", daemon.log()), || daemon.log().contains(text).then_some(()));
        said("switch \"uplink\": there is no interface br-up; make it: ip link add name br-up type bridge");
        said("switch \"loop\": lo is no bridge");
        said("switch \"lan\": the bridge br-lan is down");
        assert!(!daemon.log().contains("br-old"), "{}", daemon.log());

        ip("link set br-lan up");
        ip("link add br-up type bridge");
        wait_for_link(&daemon, "lan", &json!({ "bridge": true, "up": true, "mtu": 9000 }));
        wait_for_link(&daemon, "uplink", &json!({ "bridge": true, "up": false, "mtu": 1500 }));
        ip("link add port type veth peer name other");
        ip("link set port master br-lan");
        ip("link set port nomaster");
        ip("link del port");
        ip("link set br-up name br-new");
        wait_for_link(&daemon, "uplink", &Value::Null);
        ip("link del br-lan");
        wait_for_link(&daemon, "lan", &Value::Null);
        said("switch \"lan\": there is no interface br-lan");
        daemon.configure(&SWITCHES.replace("br-up", "br-new"));
        daemon.post("reload").ok();
        wait_for_link(&daemon, "uplink", &json!({ "bridge": true, "up": false, "mtu": 1500 }));
        assert_eq!(daemon.get("switches").ok()["switches"][3]["enabled"], false);
    });
}

#[test]
fn net_is_started_again_and_nobody_waits_in_vain() {
    test(NEEDS, |scratch| {
        own_network();
        let name = scratch.vm_name();
        let text = format!("{SWITCHES}{}", configuration(scratch, &[(&name, guest::IDLE, "")]));
        let daemon = Daemon::start(scratch, &text);
        let vm = daemon.wait_for_state(&name, "running");
        let control = process_of(&daemon, "control");
        let before = process_of(&daemon, "net");
        daemon.get("switches").ok();
        // One that does not get to answer any more.
        kill(Pid::from_raw(before), Signal::SIGSTOP).unwrap();
        std::thread::scope(|threads| {
            let asked = threads.spawn(|| daemon.get("switches"));
            std::thread::sleep(std::time::Duration::from_millis(200));
            assert!(!asked.is_finished());
            kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
            let answer = asked.join().unwrap();
            assert_eq!(answer.status, 503, "{answer:?}");
            assert_eq!(answer.code(), "interrupted");
        });
        wait_for("an answer", || (daemon.get("switches").status == 200).then_some(()));
        assert_ne!(process_of(&daemon, "net"), before);
        assert_eq!(process_of(&daemon, "control"), control);
        assert_eq!(daemon.vm(&name), vm);
    });
}
