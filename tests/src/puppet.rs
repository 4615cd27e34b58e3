//! A guest that does what the test says: the harness's side of `guests/puppet.S`.

use std::os::fd::OwnedFd;

use serde_json::json;

use crate::guest::{self, Protocol};
use crate::memory::{COUNTER, GuestMemory};
use crate::vmm::{Builder, Vmm, boot_source};
use crate::{Scratch, wait_for};

// The shared page of `guests/puppet.S`.
const REQUEST: u64 = COUNTER;
const READY: u64 = COUNTER + 1;
const OPERATION: u64 = COUNTER + 8;
const ADDRESS: u64 = COUNTER + 16;
const VALUE: u64 = COUNTER + 24;
const PROTOCOL: u64 = COUNTER + 32;
const BOOT_INFORMATION: u64 = COUNTER + 40;

/// Where the harness puts code that the guest is to execute: its own page, behind everything the guest came with.
const CODE: u64 = 0x20_0000;

/// Operations, in the order of the table in `guests/puppet.S`.
#[derive(Debug, Clone, Copy)]
enum Operation {
    In8,
    In16,
    In32,
    Out8,
    Out16,
    Out32,
    Read8,
    Read16,
    Read32,
    Read64,
    Write8,
    Write16,
    Write32,
    Write64,
    Call,
}

/// A running vmm with the puppet in it.
#[derive(Debug)]
pub struct Puppet {
    vmm: Vmm,
    memory: GuestMemory,
}

impl Puppet {
    /// Boots it by the Linux protocol in a vmm with default settings.
    pub fn start(scratch: &Scratch) -> Self {
        Self::start_with(scratch, Protocol::Linux64, |_| {})
    }

    /// Boots it by `protocol`, after the test has configured the vmm.
    pub fn start_with(scratch: &Scratch, protocol: Protocol, configure: impl FnOnce(&Vmm)) -> Self {
        Self::start_in(scratch, Builder::new(scratch).start(), protocol, configure)
    }

    /// Boots it in a vmm that the test has started.
    pub fn start_in(scratch: &Scratch, vmm: Vmm, protocol: Protocol, configure: impl FnOnce(&Vmm)) -> Self {
        vmm.put("/boot-source", &boot_source(scratch, guest::PUPPET, protocol));
        configure(&vmm);
        Self::boot(vmm)
    }

    /// Boots it in a vmm that opens no path and has these descriptors besides, after the test has configured it.
    pub fn start_sealed(
        scratch: &Scratch,
        descriptors: impl IntoIterator<Item = (&'static str, OwnedFd)>,
        configure: impl FnOnce(&Vmm),
    ) -> Self {
        let sealed = Builder::sealed(scratch, guest::PUPPET, Protocol::Pvh);
        let add = |builder: Builder, (name, descriptor)| builder.descriptor(name, descriptor);
        let vmm = descriptors.into_iter().fold(sealed, add).start();
        vmm.put("/boot-source", &json!({ "kernel_image_path": "fd:kernel", "boot_args": "" }));
        configure(&vmm);
        Self::boot(vmm)
    }

    /// The puppet in a vmm that was restored from a snapshot of one.
    pub fn restored(vmm: Vmm) -> Self {
        let memory = vmm.memory();
        Self { vmm, memory }
    }

    fn boot(vmm: Vmm) -> Self {
        vmm.start_guest();
        let memory = vmm.memory();
        wait_for("the puppet", || (memory.read_array::<1>(READY) == [1]).then_some(()));
        Self { vmm, memory }
    }

    /// The vmm it runs in.
    pub fn vmm(&mut self) -> &mut Vmm {
        &mut self.vmm
    }

    /// The vmm alone, for its end.
    pub fn into_vmm(self) -> Vmm {
        self.vmm
    }

    /// The guest's memory below the hole.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The protocol by which it was entered.
    pub fn entered_by(&self) -> Protocol {
        match self.memory.read_u64(PROTOCOL) {
            1 => Protocol::Linux64,
            2 => Protocol::Pvh,
            other => panic!("the puppet says it was entered by protocol {other}"),
        }
    }

    /// What the vmm handed over in `rsi` or `ebx`: the address of the boot parameters or of the start information.
    pub fn boot_information(&self) -> u64 {
        self.memory.read_u64(BOOT_INFORMATION)
    }

    /// Reads a byte from a port.
    pub fn in_8(&self, port: u16) -> u8 {
        self.perform(Operation::In8, port.into(), 0) as u8
    }

    /// Reads 16 bits from a port.
    pub fn in_16(&self, port: u16) -> u16 {
        self.perform(Operation::In16, port.into(), 0) as u16
    }

    /// Reads 32 bits from a port.
    pub fn in_32(&self, port: u16) -> u32 {
        self.perform(Operation::In32, port.into(), 0) as u32
    }

    /// Writes a byte to a port.
    pub fn out_8(&self, port: u16, value: u8) {
        self.perform(Operation::Out8, port.into(), value.into());
    }

    /// Writes 16 bits to a port.
    pub fn out_16(&self, port: u16, value: u16) {
        self.perform(Operation::Out16, port.into(), value.into());
    }

    /// Writes 32 bits to a port.
    pub fn out_32(&self, port: u16, value: u32) {
        self.perform(Operation::Out32, port.into(), value.into());
    }

    /// Reads a byte from memory or a device.
    pub fn read_8(&self, address: u64) -> u8 {
        self.perform(Operation::Read8, address, 0) as u8
    }

    /// Reads 16 bits from memory or a device.
    pub fn read_16(&self, address: u64) -> u16 {
        self.perform(Operation::Read16, address, 0) as u16
    }

    /// Reads 32 bits from memory or a device.
    pub fn read_32(&self, address: u64) -> u32 {
        self.perform(Operation::Read32, address, 0) as u32
    }

    /// Reads 64 bits from memory or a device.
    pub fn read_64(&self, address: u64) -> u64 {
        self.perform(Operation::Read64, address, 0)
    }

    /// Writes a byte to memory or a device.
    pub fn write_8(&self, address: u64, value: u8) {
        self.perform(Operation::Write8, address, value.into());
    }

    /// Writes 16 bits to memory or a device.
    pub fn write_16(&self, address: u64, value: u16) {
        self.perform(Operation::Write16, address, value.into());
    }

    /// Writes 32 bits to memory or a device.
    pub fn write_32(&self, address: u64, value: u32) {
        self.perform(Operation::Write32, address, value.into());
    }

    /// Writes 64 bits to memory or a device.
    pub fn write_64(&self, address: u64, value: u64) {
        self.perform(Operation::Write64, address, value);
    }

    /// Has the guest call code in 64-bit mode, with `argument` in `rax` and the code's own address in `rdx`, and returns its
    /// `rax`. The code may change every register but `rsp`.
    pub fn call(&self, code: &[u8], argument: u64) -> u64 {
        self.memory.write(CODE, code);
        self.perform(Operation::Call, CODE, argument)
    }

    /// As [`call`](Self::call), for code that does not return.
    pub fn go(&self, code: &[u8]) {
        self.memory.write(CODE, code);
        self.request(Operation::Call, CODE, 0);
    }

    /// Starts every other processor, in real mode, with `code`, which is put at 0x8000 for that.
    pub fn start_other_processors(&self, code: &[u8]) {
        const LOCAL_APIC_COMMAND: u64 = 0xfee0_0300;
        const TO_ALL_OTHERS: u32 = 0xc_4000;
        const INIT: u32 = 0x500;
        const STARTUP: u32 = 0x600;
        self.memory.write(0x8000, code);
        self.write_32(LOCAL_APIC_COMMAND, TO_ALL_OTHERS | INIT);
        // Their code may end the guest before this access returns.
        self.request(Operation::Write32, LOCAL_APIC_COMMAND, (TO_ALL_OTHERS | STARTUP | 0x8).into());
    }

    /// Executes CPUID on the first processor: EAX, EBX, ECX and EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        const RESULT: u32 = CODE as u32 + 0x1000;
        let mut code = vec![0xb9]; // mov $subleaf, %ecx
        code.extend(subleaf.to_le_bytes());
        code.extend([0x0f, 0xa2]); // cpuid
        for (register, address) in [0x04_u8, 0x1c, 0x0c, 0x14].into_iter().zip((RESULT..).step_by(4)) {
            code.extend([0x89, register, 0x25]); // mov %eax, %ebx, %ecx, %edx to address
            code.extend(address.to_le_bytes());
        }
        code.push(0xc3); // ret
        self.call(&code, leaf.into());
        std::array::from_fn(|index| self.memory.read_u32(u64::from(RESULT) + index as u64 * 4))
    }

    /// Writes a model-specific register of the first processor.
    pub fn write_msr(&self, register: u32, value: u64) {
        let mut code = vec![0xb9]; // mov $register, %ecx
        code.extend(register.to_le_bytes());
        code.extend([0x48, 0x89, 0xc2]); // mov %rax, %rdx
        code.extend([0x48, 0xc1, 0xea, 32]); // shr $32, %rdx
        code.extend([0x0f, 0x30, 0xc3]); // wrmsr; ret
        self.call(&code, value);
    }

    /// Writes to a port, and does not wait for the guest to go on.
    pub fn out_8_and_end(&self, port: u16, value: u8) {
        self.request(Operation::Out8, port.into(), value.into());
    }

    fn perform(&self, operation: Operation, address: u64, value: u64) -> u64 {
        self.wait_until_idle("a request before it");
        self.request(operation, address, value);
        self.wait_until_idle(operation);
        self.memory.read_u64(VALUE)
    }

    fn wait_until_idle(&self, with: impl std::fmt::Debug) {
        let deadline = std::time::Instant::now() + crate::PATIENCE;
        while self.memory.read_array::<1>(REQUEST) != [0] {
            assert!(std::time::Instant::now() < deadline, "the guest does not get done with {with:?}");
            // The guest may need the processor that this runs on.
            std::thread::sleep(std::time::Duration::from_micros(10));
        }
    }

    fn request(&self, operation: Operation, address: u64, value: u64) {
        self.memory.write(OPERATION, &(operation as u64).to_le_bytes());
        self.memory.write(ADDRESS, &address.to_le_bytes());
        self.memory.write(VALUE, &value.to_le_bytes());
        // A single byte, and the last: the guest never sees half a request.
        self.memory.write(REQUEST, &[1]);
    }
}
