//! Pause and resume really stop and resume the processors.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::memory::{COUNTER, GuestMemory};
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::{Exit, Vmm};
use stockade_tests::{Need, test, wait_for};

/// How long a stopped counter is watched.
const WATCH: std::time::Duration = std::time::Duration::from_millis(200);

fn assert_stands_still(memory: &GuestMemory, address: u64) {
    let before = memory.read_u64(address);
    std::thread::sleep(WATCH);
    assert_eq!(memory.read_u64(address), before, "a paused guest counts on");
}

fn wait_counts(memory: &GuestMemory, address: u64) {
    let before = memory.read_u64(address);
    wait_for("the guest to count", || (memory.read_u64(address) != before).then_some(()));
}

#[test]
fn a_paused_guest_stands_still() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::SPIN, Protocol::Linux64);
        vmm.start_guest();
        let memory = vmm.memory();
        wait_counts(&memory, COUNTER);
        for _ in 0..3 {
            vmm.set_state("Paused");
            vmm.set_state("Paused");
            assert_eq!(vmm.request("GET", "/", "").json()["state"], "Paused");
            assert_stands_still(&memory, COUNTER);
            vmm.set_state("Resumed");
            vmm.set_state("Resumed");
            assert_eq!(vmm.request("GET", "/", "").json()["state"], "Running");
            wait_counts(&memory, COUNTER);
        }
        for wrong in [json!({ "state": "Stopped" }), json!({}), json!({ "state": "Paused", "now": 1 })] {
            assert_eq!(vmm.request("PATCH", "/vm", &wrong.to_string()).status, 400);
        }
    });
}

#[test]
fn a_process_can_be_stopped_and_continued() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::SPIN, Protocol::Linux64);
        vmm.start_guest();
        let memory = vmm.memory();
        let process = Pid::from_raw(vmm.pid());
        for state in ["Resumed", "Paused", "Resumed"] {
            vmm.set_state(state);
            kill(process, Signal::SIGSTOP).unwrap();
            wait_for("the guest to stand still", || {
                let before = memory.read_u64(COUNTER);
                std::thread::sleep(WATCH);
                (memory.read_u64(COUNTER) == before).then_some(())
            });
            kill(process, Signal::SIGCONT).unwrap();
            assert_eq!(vmm.request("GET", "/version", "").status, 200);
        }
        wait_counts(&memory, COUNTER);
    });
}

#[test]
fn all_processors_stop() {
    const COUNTERS: u64 = 0x7f00;
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start_with(scratch, Protocol::Linux64, |vmm| {
            vmm.put("/machine-config", &json!({ "vcpu_count": 4, "mem_size_mib": 64 }));
        });
        puppet.memory().write(COUNTERS, &[0; 8]);
        // 1: lock incw 0x7f00; jmp 1b
        puppet.start_other_processors(&[0xf0, 0xff, 0x06, 0x00, 0x7f, 0xeb, 0xf9]);
        wait_counts(puppet.memory(), COUNTERS);
        puppet.vmm().set_state("Paused");
        assert_stands_still(puppet.memory(), COUNTERS);
        puppet.vmm().set_state("Resumed");
        wait_counts(puppet.memory(), COUNTERS);
    });
}

#[test]
fn a_guest_that_waits_can_be_paused_and_still_ends() {
    test(&[Need::Kvm], |scratch| {
        let mut vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Pvh);
        vmm.start_guest();
        vmm.console().wait_for("idle");
        vmm.set_state("Paused");
        vmm.set_state("Resumed");
        vmm.set_state("Paused");
        assert!(vmm.is_running());
        assert_eq!(vmm.kill(), Exit::Signal(9));
    });
}
