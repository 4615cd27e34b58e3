//! The default guest under the daemon: booted, reached, paused, started again and stopped. Its kernel takes long to boot where
//! it is emulated, so that one boot serves for all of it.

use serde_json::json;
use stockade_tests::{test, wait_for};

use crate::daemon::{Daemon, NEEDS};
use crate::tenant::root;

#[test]
fn the_default_guest_is_reached_paused_started_again_and_stopped_through_its_agent() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let text = format!("vm \"{name}\" {{\n    boot default\n    memory 256M\n    stop timeout 300\n}}\n");
        let daemon = Daemon::start(scratch, &text);
        // While it boots, it is waited for; its name is that of the virtual machine.
        let exec = |script: &str| root(&daemon, &["exec", &name, "--", "sh", "-c", script]);
        let named = exec("hostname");
        assert_eq!((named.code, named.text()), (0, format!("{name}\n").as_str()), "{named:?}");

        daemon.post(&format!("vms/{name}/pause")).ok();
        exec("true").expect_line(125, &["is paused", "unpause"]);
        daemon.post(&format!("vms/{name}/unpause")).ok();

        // A guest that resets itself starts again, with the same number, while whoever waits for its end waits on.
        let before = daemon.vm(&name);
        let ended = std::thread::scope(|threads| {
            let waiting = threads.spawn(|| daemon.post(&format!("vms/{name}/wait")).ok());
            let broken_off = exec("reboot -f; sleep 1000");
            assert_eq!(broken_off.code, 125, "{broken_off:?}");
            let after = wait_for("the next start", || {
                Some(daemon.vm(&name)).filter(|vm| vm["state"] == "running" && vm["generation"] != before["generation"])
            });
            assert_eq!((&after["id"], after["generation"].as_u64()), (&before["id"], Some(2)));
            assert!(!waiting.is_finished());

            // It is asked while it boots, and does it as soon as it can.
            let stopped = daemon.post(&format!("vms/{name}/stop")).ok();
            assert_eq!(stopped["exit"]["cause"], "power_off", "{stopped}");
            waiting.join().unwrap()
        });
        assert_eq!(ended["exit"]["cause"], json!("power_off"));
        assert_eq!(daemon.entries("vms"), [""; 0]);
        exec("true").expect_line(125, &["stopped", "start it first"]);
    });
}
