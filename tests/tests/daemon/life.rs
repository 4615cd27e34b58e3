//! Virtual machines of a daemon, from start to end.

use nix::sys::signal::Signal;
use serde_json::json;
use stockade_tests::guest;
use stockade_tests::{process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

#[test]
fn a_virtual_machine_lives_as_vm_conf_and_clients_say() {
    test(NEEDS, |scratch| {
        let (on, off) = (scratch.vm_name(), scratch.vm_name());
        let text = configuration(scratch, &[(&on, guest::IDLE, ""), (&off, guest::OBEDIENT, "disable")]);
        let daemon = Daemon::start(scratch, &text);
        let vm = daemon.wait_for_state(&on, "running");
        let pid = i32::try_from(vm["pid"].as_i64().unwrap()).unwrap();
        wait_for("the console", || daemon.console(&vm["id"]).contains("idle").then_some(()));
        assert_eq!(daemon.state(&off), "defined");
        assert_eq!(daemon.post(&format!("vms/{on}/start")).code(), "already_running");
        assert_eq!(daemon.post(&format!("vms/{off}/stop")).code(), "not_running");

        assert_eq!(daemon.post(&format!("vms/{on}/pause")).ok()["state"], "paused");
        assert_eq!(daemon.post(&format!("vms/{on}/pause")).code(), "already_paused");
        assert_eq!(daemon.post(&format!("vms/{on}/unpause")).ok()["state"], "running");

        // Its death is certain when the answer is there.
        assert_eq!(daemon.force(&on)["cause"], "killed");
        assert_eq!(process::status_field(pid, "State"), None);
        assert_eq!(daemon.entries("vms"), [""; 0]);
        assert_eq!(daemon.post(&format!("vms/{on}/wait")).ok()["exit"]["cause"], "killed");

        // The guest powers itself off when it is asked.
        let started = daemon.post(&format!("vms/{off}/start")).ok();
        assert_eq!(started["state"], "running");
        wait_for("the console", || daemon.console(&started["id"]).contains("obedient").then_some(()));
        assert_eq!(daemon.post(&format!("vms/{off}/stop")).ok()["exit"]["cause"], "power_off");
        let listed = daemon.get("vms").ok();
        let names: Vec<_> = listed["vms"].as_array().unwrap().iter().map(|vm| vm["name"].clone()).collect();
        assert_eq!(names, [json!(on), json!(off)]);
    });
}

#[test]
fn a_guest_that_does_not_listen_is_ended_when_its_time_is_over() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let text = configuration(scratch, &[(&name, guest::SPIN, "stop timeout 1")]);
        let daemon = Daemon::start(scratch, &text);
        daemon.wait_for_state(&name, "running");
        assert_eq!(daemon.post(&format!("vms/{name}/stop")).ok()["exit"]["cause"], "killed");
    });
}

#[test]
fn a_guest_that_resets_itself_starts_again_on_the_same_console_but_not_for_ever() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let text = configuration(scratch, &[(&name, guest::HELLO, "")]);
        let daemon = Daemon::start(scratch, &text);
        let vm = daemon.wait_for_state(&name, "stopped");
        assert_eq!((&vm["generation"], &vm["last_exit"]["cause"]), (&json!(3), &json!("reset")));
        assert!(vm["last_error"].as_str().unwrap().contains("3 times"), "{vm}");
        assert_eq!(daemon.console(&vm["id"]).matches("hello from the guest").count(), 3);
    });
}

#[test]
fn one_that_a_client_makes_is_gone_when_it_has_stopped() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, "");
        let kernel = scratch.file("kernel", guest::IDLE.image(stockade_tests::guest::Protocol::Linux64));
        let new = json!({ "name": name, "kernel": kernel, "memory_mib": 64 });
        assert_eq!(daemon.post_json("vms", new.clone()).ok()["state"], "running");
        assert_eq!(daemon.post_json("vms", new).code(), "exists");
        daemon.force(&name);
        assert_eq!(daemon.get(&format!("vms/{name}")).code(), "not_found");
        let missing = json!({ "name": name, "kernel": "/nowhere" });
        assert_eq!(daemon.post_json("vms", missing).code(), "file_not_usable");
        assert_eq!(daemon.entries("daemon/vms"), [""; 0]);
    });
}

#[test]
fn a_configuration_is_read_again_whole_or_not_at_all() {
    test(NEEDS, |scratch| {
        let (old, new) = (scratch.vm_name(), scratch.vm_name());
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&old, guest::IDLE, "")]));
        daemon.wait_for_state(&old, "running");
        let both = configuration(scratch, &[(&old, guest::IDLE, ""), (&new, guest::IDLE, "disable")]);
        daemon.configure(&format!("{both}\nnonsense {{"));
        assert_eq!(daemon.post("reload").code(), "invalid_configuration");
        assert_eq!(daemon.get(&format!("vms/{new}")).code(), "not_found");
        daemon.configure(&both);
        daemon.signal(Signal::SIGHUP);
        wait_for("the new one", || (daemon.get(&format!("vms/{new}")).status == 200).then_some(()));
        assert_eq!((daemon.state(&old).as_str(), daemon.state(&new).as_str()), ("running", "defined"));
        // One that is not there any more goes on until it stops.
        daemon.configure("");
        daemon.post("reload").ok();
        assert_eq!(daemon.state(&old), "running");
        daemon.force(&old);
        assert_eq!(daemon.get("vms").ok()["vms"], json!([]));
    });
}

#[test]
fn what_happens_is_told_and_can_be_resumed() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "disable")]));
        let first = std::thread::scope(|threads| {
            let waiting = threads.spawn(|| daemon.get("events").ok());
            // It may come too late for the first of many.
            while !waiting.is_finished() {
                daemon.post(&format!("vms/{name}/start"));
                daemon.force(&name);
            }
            waiting.join().unwrap()
        });
        let next = first["next"].as_u64().unwrap();
        daemon.post(&format!("vms/{name}/start")).ok();
        let page = daemon.get(&format!("events?after={next}")).ok();
        assert!(page["events"][0]["cursor"].as_u64().unwrap() > next, "{page}");
        assert_eq!(page["events"][0]["name"], json!(name));
        assert_eq!(daemon.get("events?after=3").code(), "cursor_too_old");
    });
}
