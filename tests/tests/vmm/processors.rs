//! The processors that a guest finds, and templates that change what it finds.

use serde_json::{Value, json};
use stockade_tests::guest::{self, Protocol};
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::{Builder, boot_source};
use stockade_tests::{Need, test, wait_for};

#[test]
fn every_processor_starts() {
    test(&[Need::Kvm], |scratch| {
        let puppet = Puppet::start_with(scratch, Protocol::Pvh, |vmm| {
            vmm.put("/machine-config", &json!({ "vcpu_count": 8, "mem_size_mib": 64 }))
        });
        puppet.memory().write(0x7f00, &[0; 2]);
        // cli; lock incw 0x7f00; hlt
        puppet.start_other_processors(&[0xfa, 0xf0, 0xff, 0x06, 0x00, 0x7f, 0xf4]);
        wait_for("seven processors", || (puppet.memory().read_u16(0x7f00) == 7).then_some(()));
    });
}

#[test]
fn the_processor_says_that_it_is_kvms_and_keeps_its_clock() {
    test(&[Need::Kvm], |scratch| {
        let puppet = Puppet::start(scratch);
        let [_, ebx, ecx, edx] = puppet.cpuid(0x4000_0000, 0);
        let signature = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
        assert_eq!(signature, b"KVMKVMKVM\0\0\0");
        const SYSTEM_TIME_MSR: u32 = 0x4b56_4d01;
        const CLOCK_PAGE: u64 = 0x20_2000;
        puppet.write_msr(SYSTEM_TIME_MSR, CLOCK_PAGE | 1);
        // struct pvclock_vcpu_time_info: tsc_to_system_mul is at 24.
        wait_for("kvm-clock", || (puppet.memory().read_u32(CLOCK_PAGE + 24) != 0).then_some(()));
    });
}

/// A template that changes one register of a leaf.
fn template(leaf: u32, register: &str, bitmap: &str) -> Value {
    let modifiers = json!([{ "register": register, "bitmap": bitmap }]);
    json!({ "cpuid_modifiers": [{ "leaf": format!("{leaf:#x}"), "subleaf": "0x0", "flags": 0, "modifiers": modifiers }] })
}

#[test]
fn a_template_decides_what_the_guest_sees() {
    // Any host lets this leaf be changed: bit 5 of ECX is ABM.
    const LEAF: u32 = 0x8000_0001;
    const BIT: u32 = 1 << 5;
    test(&[Need::Kvm], |scratch| {
        let plain = Puppet::start(scratch).cpuid(LEAF, 0);
        for (bitmap, expected) in [("0b0xxxxx", plain[2] & !BIT), ("0b1_xxxxx", plain[2] | BIT), ("0bx", plain[2])] {
            let puppet = Puppet::start_with(scratch, Protocol::Linux64, |vmm| {
                vmm.put("/cpu-config", &template(LEAF, "ecx", bitmap));
            });
            let found = puppet.cpuid(LEAF, 0);
            assert_eq!(found, [plain[0], plain[1], expected, plain[3]], "with {bitmap}");
        }
    });
}

#[test]
fn templates_that_no_host_can_keep_are_refused() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).start();
        vmm.put("/boot-source", &boot_source(scratch, guest::HELLO, Protocol::Linux64));
        for wrong in [
            template(1, "ecx", "0b2"),
            template(1, "ecx", &format!("0b{}", "x".repeat(33))),
            template(1, "esp", "0b1"),
            json!({ "cpuid_modifiers": [{ "leaf": "1" }] }),
            json!({ "kvm_capabilities": ["many"] }),
            json!({ "cpu": "host" }),
        ] {
            let response = vmm.request("PUT", "/cpu-config", &wrong.to_string());
            assert_eq!(response.status, 400, "{wrong}: {}", response.body);
        }
        // These can be told only from what KVM says; 0xd431 is 54321.
        for (wrong, named) in
            [(template(0x7777, "eax", "0b1"), "7777"), (json!({ "kvm_capabilities": ["54321"] }), "54321|d431")]
        {
            vmm.put("/cpu-config", &wrong);
            let response = vmm.request("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
            assert_eq!(response.status, 400, "{wrong}");
            let message = response.fault_message();
            assert!(named.split('|').any(|name| message.contains(name)), "the message names {named}: {message}");
        }
        vmm.put("/cpu-config", &json!({}));
        vmm.start_guest();
        vmm.console().wait_for("hello");
    });
}
