//! Virtual machines whose vmm is in a stranger's hands: its filter ends it, and the daemon's clients hear which thread did what.

use serde_json::{Value, json};
use stockade_tests::violate::{CALL, Thread, violate};
use stockade_tests::{guest, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

/// Whether an event says that.
fn is_said(events: &Value, exit: &Value) -> bool {
    events["events"].as_array().unwrap().iter().any(|event| event["change"]["state"]["exit"] == *exit)
}

/// The unmodified vmm, with a guest that runs, in each role that it has then.
#[test]
fn a_vmm_that_breaks_its_filter_is_reported_with_role_thread_phase_and_call() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "disable")]));
        for (thread, role, comm) in [
            (Thread::Main, "vmm-run-sealed", "stockade-vmm"),
            (Thread::Named("fc_api"), "api", "fc_api"),
            (Thread::Named("fc_vcpu 0"), "vcpu", "fc_vcpu 0"),
        ] {
            let vm = daemon.post(&format!("vms/{name}/start")).ok();
            wait_for("the guest", || daemon.console(&vm["id"]).contains("idle").then_some(()));
            violate(i32::try_from(vm["pid"].as_i64().unwrap()).unwrap(), thread);
            let exit = daemon.wait_for_state(&name, "stopped")["last_exit"].clone();
            assert_eq!(exit["cause"], "violated", "{exit}");
            let message = exit["message"].as_str().unwrap();
            for part in [format!("thread {comm:?} ("), format!("in the role {role}, phase run, {CALL}")] {
                assert!(message.contains(&part), "{part}: {message}");
            }
            assert_eq!(daemon.post(&format!("vms/{name}/wait")).ok()["exit"], exit);
            let events = daemon.get("events?after=0").ok();
            assert!(is_said(&events, &exit), "{exit}: {events}");
        }
        assert_eq!(daemon.vm(&name)["generation"], json!(3), "it is started again by nobody");
    });
}
