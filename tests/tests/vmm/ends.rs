//! Each way in which a guest can end: exit code, event, and what is said about it.

use serde_json::json;
use stockade_tests::guest::{self, Guest, Protocol};
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::{Exit, Vmm};
use stockade_tests::{Need, test};
use stockade_vmm_api::event::EventKind;
use stockade_vmm_api::exit::ExitReason;

/// Runs the guest to its end by both ELF protocols, and returns what the vmm said about it.
fn expect_end(guest: Guest, console_text: &str, expected: ExitReason) -> Vec<String> {
    let mut messages = Vec::new();
    test(&[Need::Kvm], |scratch| {
        for protocol in [Protocol::Linux64, Protocol::Pvh] {
            let vmm = Vmm::with_guest(scratch, guest, protocol);
            vmm.start_guest();
            let (exit, console, log, event) = vmm.finish();
            assert_eq!(exit, Exit::Code(expected.code().into()), "{protocol:?}: {log}");
            assert_eq!(console, format!("{console_text}\r\n"), "{protocol:?}");
            let Some(EventKind::Ended { reason, message }) = event else { panic!("the last event is {event:?}") };
            assert_eq!(reason, expected, "{protocol:?}: {message}");
            assert!(!message.is_empty());
            messages.push(message);
        }
    });
    messages
}

#[test]
fn reset() {
    expect_end(guest::HELLO, "hello from the guest", ExitReason::Reset);
}

#[test]
fn power_off() {
    expect_end(guest::POWER_OFF, "powering off", ExitReason::PowerOff);
}

#[test]
fn halt() {
    expect_end(guest::HALT, "halting", ExitReason::Halted);
}

#[test]
fn triple_fault() {
    expect_end(guest::TRIPLE_FAULT, "faulting", ExitReason::TripleFault);
}

#[test]
fn panic() {
    expect_end(guest::PANIC, "panicking", ExitReason::Panicked);
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_named() {
    let messages = expect_end(guest::UNKNOWN_INSTRUCTION, "computing", ExitReason::InternalError);
    let opcodes = ["f3 48 0f b8 03", "f3 0f b8 03"];
    for (message, opcode) in messages.iter().zip(opcodes) {
        let without_spaces = message.to_lowercase().replace(' ', "");
        assert!(without_spaces.contains(&opcode.replace(' ', "")), "no {opcode} in: {message}");
        assert!(without_spaces.contains("0x1000"), "no address in: {message}");
    }
}

#[test]
fn a_halt_is_seen_when_other_processors_never_started() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::HALT, Protocol::Pvh);
        vmm.put("/machine-config", &json!({ "vcpu_count": 3, "mem_size_mib": 64 }));
        vmm.start_guest();
        assert_eq!(vmm.finish().0, Exit::Code(ExitReason::Halted.code().into()));
    });
}

#[test]
fn waiting_for_an_interrupt_is_no_halt() {
    test(&[Need::Kvm], |scratch| {
        let mut vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Pvh);
        vmm.start_guest();
        vmm.console().wait_for("idle");
        // Long enough for any look that the vmm takes at sleeping vCPUs.
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(vmm.is_running());
    });
}

#[test]
fn a_reset_by_another_processor_ends_all() {
    test(&[Need::Kvm], |scratch| {
        let puppet = Puppet::start_with(scratch, Protocol::Linux64, |vmm| {
            vmm.put("/machine-config", &json!({ "vcpu_count": 4, "mem_size_mib": 64 }));
        });
        // mov $0xfe, %al; out %al, $0x64; hlt
        puppet.start_other_processors(&[0xb0, 0xfe, 0xe6, 0x64, 0xf4]);
        assert_eq!(puppet.into_vmm().finish().0, Exit::Code(0));
    });
}

#[test]
fn a_panic_is_only_what_the_port_says() {
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start(scratch);
        assert_eq!(puppet.in_8(0x505) & 1, 1, "the guest is told that panics are understood");
        puppet.out_8(0x505, 0);
        puppet.out_8(0x505, 0x80);
        assert!(puppet.vmm().is_running());
        puppet.out_8_and_end(0x505, 1);
        assert_eq!(puppet.into_vmm().finish().0, Exit::Code(ExitReason::Panicked.code().into()));
    });
}

#[test]
fn other_commands_of_the_power_ports_do_nothing() {
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start(scratch);
        for (port, value) in [(0x64, 0xff), (0x64, 0x20), (0x60, 0xfe), (0x600, 0x14), (0x600, 0), (0x601, 0xff)] {
            puppet.out_8(port, value);
        }
        assert!(puppet.vmm().is_running());
        puppet.out_8_and_end(0x600, 0x34);
        assert_eq!(puppet.into_vmm().finish().0, Exit::Code(0));
    });
}

#[test]
fn addresses_where_nothing_is_read_as_ones() {
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start(scratch);
        assert_eq!(puppet.in_8(0x2f8), 0xff);
        assert_eq!(puppet.in_16(0x1f0), 0xffff);
        assert_eq!(puppet.in_32(0xcf8), 0xffff_ffff);
        assert_eq!(puppet.read_64(0xd000_0000), u64::MAX);
        assert_eq!(puppet.read_8(0xd000_0001), 0xff);
        puppet.out_32(0xcfc, 0x1234);
        puppet.write_64(0xd000_0000, 0x1234);
        assert!(puppet.vmm().is_running());
    });
}

#[test]
fn signals_end_the_vmm_as_any_process() {
    test(&[Need::Kvm], |scratch| {
        let mut vmm = Vmm::with_guest(scratch, guest::SPIN, Protocol::Pvh);
        vmm.start_guest();
        vmm.console().wait_for("counting");
        let pid = nix::unistd::Pid::from_raw(vmm.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(vmm.wait(), Exit::Signal(15));
    });
}
