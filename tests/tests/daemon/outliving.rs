//! Daemons that die, and those that come after them.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use stockade_tests::{guest, process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

#[test]
fn a_virtual_machine_outlives_its_daemon() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let mut daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::OBEDIENT, "")]));
        let before = daemon.wait_for_state(&name, "running");
        for _ in 0..3 {
            daemon.kill();
            daemon.run();
            assert_eq!(daemon.wait_for_state(&name, "running"), before);
        }
        // It does what it did.
        assert_eq!(daemon.post(&format!("vms/{name}/pause")).ok()["state"], "paused");
        daemon.kill();
        daemon.run();
        assert_eq!(daemon.state(&name), "paused");
        assert_eq!(daemon.post(&format!("vms/{name}/unpause")).ok()["state"], "running");
        assert_eq!(daemon.post(&format!("vms/{name}/stop")).ok()["exit"]["cause"], "power_off");
    });
}

#[test]
fn an_end_that_nobody_saw_is_collected() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let mut daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        let pid = i32::try_from(daemon.wait_for_state(&name, "running")["pid"].as_i64().unwrap()).unwrap();
        daemon.kill();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        // Its warden cleans up, and goes.
        wait_for("the jail to be gone", || daemon.entries("vms").is_empty().then_some(()));
        daemon.run();
        let vm = daemon.wait_for_state(&name, "stopped");
        assert_eq!(vm["last_exit"]["cause"], "failed");
        assert!(vm["last_exit"]["message"].as_str().unwrap().contains("SIGKILL"), "{vm}");
        assert_eq!(daemon.entries("daemon/journals"), [""; 0]);
    });
}

#[test]
fn a_reset_that_nobody_saw_starts_the_guest_again() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let mut daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::ECHO, "")]));
        let vm = daemon.wait_for_state(&name, "running");
        wait_for("the guest to be ready", || daemon.console(&vm["id"]).contains("ready").then_some(()));
        daemon.kill();
        // What is typed reaches the guest without any daemon; after a line it resets.
        let input = daemon.run_directory().join(format!("daemon/consoles/{}.input", vm["id"]));
        std::fs::write(input, "typed\n").unwrap();
        wait_for("the jail to be gone", || daemon.entries("vms").is_empty().then_some(()));
        daemon.run();
        let again = wait_for("the second start", || {
            Some(daemon.vm(&name)).filter(|vm| vm["generation"] == 2 && vm["state"] == "running")
        });
        assert_eq!(again["id"], vm["id"]);
        let console = wait_for("the console", || {
            Some(daemon.console(&vm["id"])).filter(|console| console.matches("ready").count() == 2)
        });
        assert!(console.contains("typed"), "{console:?}");
    });
}

#[test]
fn a_warden_that_dies_takes_its_machine_with_it() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let mut daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        let warden_of = |daemon: &Daemon| {
            let vm = daemon.wait_for_state(&name, "running");
            let pid = i32::try_from(vm["pid"].as_i64().unwrap()).unwrap();
            Pid::from_raw(process::status_field(pid, "PPid").unwrap().parse().unwrap())
        };
        kill(warden_of(&daemon), Signal::SIGKILL).unwrap();
        assert_eq!(daemon.wait_for_state(&name, "stopped")["last_exit"]["cause"], "unknown");
        assert_eq!(daemon.entries("vms"), [""; 0]);
        // The same while no daemon is there.
        daemon.post(&format!("vms/{name}/start")).ok();
        let warden = warden_of(&daemon);
        daemon.kill();
        kill(warden, Signal::SIGKILL).unwrap();
        daemon.run();
        assert_eq!(daemon.wait_for_state(&name, "stopped")["last_exit"]["cause"], "unknown");
        assert_eq!(daemon.entries("vms"), [""; 0]);
    });
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_starts_and_stops_loses_nothing() {
    test(NEEDS, |scratch| {
        let names: Vec<_> = (0..4).map(|_| scratch.vm_name()).collect();
        let vms: Vec<_> = names.iter().map(|name| (name.as_str(), guest::IDLE, "")).collect();
        let text = format!("staggered start parallel 4 delay 1\n{}", configuration(scratch, &vms));
        let mut daemon = Daemon::start(scratch, &text);
        let id = daemon.vm(&names[0])["id"].clone();
        for round in 0..12 {
            std::thread::scope(|threads| {
                let requests = names.iter().map(|name| {
                    let daemon = &daemon;
                    threads.spawn(move || {
                        let _ =
                            daemon.try_request("POST", &format!("vms/{name}/stop"), Some(json!({ "mode": "force" })));
                        let _ = daemon.try_request("POST", &format!("vms/{name}/start"), None);
                    })
                });
                let requests: Vec<_> = requests.collect();
                // Somewhere among all that: later in each round.
                let deeds = |daemon: &Daemon| daemon.entries("daemon/journals").len();
                wait_for("some of it", || (round % 4 == 0 || deeds(&daemon) <= 4).then_some(()));
                std::thread::sleep(std::time::Duration::from_millis(round * 7));
                daemon.signal(Signal::SIGKILL);
                requests.into_iter().for_each(|request| request.join().unwrap());
            });
            daemon.wait_for_death();
            daemon.run();
            // Each has at most one machine, and each machine somebody who knows it.
            let jails = || {
                let vms = daemon.get("vms").ok();
                let vms = vms["vms"].as_array().unwrap().clone();
                vms.iter().filter_map(|vm| vm["jail"].as_str().map(String::from)).collect::<Vec<_>>()
            };
            wait_for("jails and records to agree", || {
                let mut known = jails();
                known.sort();
                (daemon.entries("vms") == known).then_some(())
            });
        }
        assert_eq!(daemon.vm(&names[0])["id"], id);
        for name in &names {
            if ["stopped", "defined"].contains(&daemon.state(name).as_str()) {
                daemon.post(&format!("vms/{name}/start")).ok();
            }
            daemon.wait_for_state(name, "running");
        }
    });
}

#[test]
fn a_daemon_that_is_told_to_end_stops_guests_or_leaves_them() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let text = configuration(scratch, &[(&name, guest::OBEDIENT, "")]);
        let mut daemon = Daemon::start(scratch, &text);
        daemon.wait_for_state(&name, "running");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        assert_eq!(daemon.entries("vms"), [""; 0]);
        // The next one starts it again, as vm.conf says.
        daemon.configure(&format!("shutdown leave\n{text}"));
        daemon.run();
        let vm = daemon.wait_for_state(&name, "running");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        daemon.run();
        assert_eq!(daemon.wait_for_state(&name, "running"), vm);
    });
}

#[test]
fn there_is_one_daemon_at_a_time() {
    test(NEEDS, |scratch| {
        let daemon = Daemon::start(scratch, "");
        let second = std::process::Command::new(stockade_tests::program("stockaded"))
            .arg("--run-directory")
            .arg(daemon.run_directory())
            .arg("--state-directory")
            .arg(scratch.join("state"))
            .output()
            .unwrap();
        assert!(!second.status.success());
        let error = String::from_utf8(second.stderr).unwrap();
        assert!(error.contains("another stockaded runs"), "{error}");
        daemon.get("version").ok();
    });
}
