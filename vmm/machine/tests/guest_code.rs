//! A few bytes of guest code for each way in which a guest runs, waits and ends, on the real KVM.
// A test reports what went wrong by panicking.
#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use stockade_boot::{
    CpuState, Entry, Protocol,
    x86_64::{DescriptorTable, Segment},
};
use stockade_devices::{
    bus::{Bus, BusDevice},
    guest_request::GuestRequest,
    legacy::SleepRegisters,
};
use stockade_machine::{
    Buses, GuestEnd, Hypervisor, Machine, MachineSpec, MemorySpec, Saving, ThreadsPerCore, VcpuGroup,
};
use stockade_vmm_api::{cpu_template::CpuTemplate, exit::ExitReason};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const CODE: u64 = 0x10_0000;
const PORT: u64 = 0x80;
const MMIO: u64 = 0xc000_0000;
/// Far more than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends what a guest writes to the test, and lets it read 0x5a.
struct Tap(Mutex<mpsc::Sender<(u64, Vec<u8>)>>);

impl BusDevice for Tap {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().send((offset, data.to_vec())).unwrap();
    }
}

struct Running {
    group: VcpuGroup,
    request: Arc<GuestRequest>,
    writes: mpsc::Receiver<(u64, Vec<u8>)>,
}

/// /dev/kvm, or `None` where the host has none, which the test's caller is told.
fn kvm(test: &str) -> Option<Hypervisor> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Some(Hypervisor::open(Some(file.into())).unwrap()),
        Err(error) => {
            let line = format!("{test}: needs /dev/kvm: {error}\n");
            eprint!("skipped {line}");
            if let Some(path) = std::env::var_os("STOCKADE_SKIPS") {
                let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(line.as_bytes()).unwrap();
            }
            None
        }
    }
}

fn spec(vcpus: u8, template: Option<&CpuTemplate>) -> MachineSpec<'_> {
    MachineSpec {
        vcpus,
        threads_per_core: ThreadsPerCore::One,
        memory: MemorySpec::of_bytes(4 << 20),
        template,
        saving: Saving::Never,
    }
}

/// 32-bit protected mode without paging, flat segments.
fn entry() -> Entry {
    let cpu = CpuState {
        rip: CODE,
        rsp: CODE,
        rbp: 0,
        rbx: 0,
        rsi: 0,
        rflags: 2,
        cr0: 1,
        cr3: 0,
        cr4: 0,
        efer: 0,
        code: Segment { selector: 8, limit: u32::MAX, attributes: 0xc09b },
        data: Segment { selector: 0x10, limit: u32::MAX, attributes: 0xc093 },
        task: Segment { selector: 0x18, limit: 0x67, attributes: 0x008b },
        gdt: DescriptorTable { base: 0, limit: 0 },
        idt: DescriptorTable { base: 0, limit: 0 },
    };
    Entry { protocol: Protocol::Pvh, cpu }
}

fn start(machine: Machine, code: &[u8]) -> Running {
    machine.memory().write_slice(code, GuestAddress(CODE)).unwrap();
    machine.set_entry(&entry()).unwrap();
    let (sender, writes) = mpsc::channel();
    let tap = Arc::new(Tap(Mutex::new(sender)));
    let request = Arc::new(GuestRequest::new().unwrap());
    let mut buses = Buses { ports: Bus::new(), mmio: Bus::new(), request: request.clone() };
    buses.ports.insert(PORT, 4, tap.clone()).unwrap();
    buses.ports.insert(0x600, 2, Arc::new(SleepRegisters::new(request.clone()))).unwrap();
    buses.mmio.insert(MMIO, 0x1000, tap).unwrap();
    let group = machine.start_vcpus(buses, || {}).unwrap();
    Running { group, request, writes }
}

impl Running {
    fn write(&self) -> (u64, Vec<u8>) {
        self.writes.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for the guest's end, and looks for a halt meanwhile as an event loop would.
    fn end(mut self) -> GuestEnd {
        let deadline = Instant::now() + PATIENCE;
        while self.request.reason().is_none() {
            let wait = self.group.look_for_halt().unwrap();
            std::thread::sleep(wait.min(Duration::from_millis(20)));
            assert!(Instant::now() < deadline, "the guest did not end");
        }
        let end = self.group.end().unwrap();
        self.group.stop().unwrap();
        end
    }
}

fn run(test: &str, vcpus: u8, code: &[u8]) -> Option<Running> {
    let machine = kvm(test)?.create_machine().unwrap().build(&spec(vcpus, None)).unwrap();
    let running = start(machine, code);
    running.group.resume().unwrap();
    Some(running)
}

#[test]
fn accesses_reach_the_buses() {
    let code = [
        0xe4, 0x80, // in al, 0x80
        0xe6, 0x81, // out 0x81, al
        0xa1, 0x10, 0x00, 0x00, 0xc0, // mov eax, [0xc0000010]
        0xa3, 0x20, 0x00, 0x00, 0xc0, // mov [0xc0000020], eax
        0x66, 0xe7, 0x82, // out 0x82, ax
        0xbe, 0x00, 0x00, 0x10, 0x00, // mov esi, CODE
        0x66, 0xba, 0x80, 0x00, // mov dx, 0x80
        0xb9, 0x03, 0x00, 0x00, 0x00, // mov ecx, 3
        0xf3, 0x6e, // rep outsb
        0xf4, // hlt
    ];
    let Some(running) = run("accesses_reach_the_buses", 1, &code) else { return };
    assert_eq!(running.write(), (1, vec![0x5a]));
    assert_eq!(running.write(), (0x20, vec![0x5a; 4]));
    assert_eq!(running.write(), (2, vec![0x5a; 2]));
    for byte in [0xe4, 0x80, 0xe6] {
        assert_eq!(running.write(), (0, vec![byte]));
    }
    assert_eq!(running.end().reason, ExitReason::Halted);
}

#[test]
fn a_halt_of_all_vcpus_is_noticed() {
    let Some(running) = run("a_halt_of_all_vcpus_is_noticed", 3, &[0x90, 0xf4]) else { return };
    let end = running.end();
    assert_eq!(end.reason, ExitReason::Halted);
    assert!(end.message.contains("rip 0x100002"), "{}", end.message);
}

#[test]
fn a_triple_fault_ends_the_guest() {
    // ud2, and no interrupt descriptor table.
    let Some(running) = run("a_triple_fault_ends_the_guest", 1, &[0x0f, 0x0b]) else { return };
    assert_eq!(running.end().reason, ExitReason::TripleFault);
}

#[test]
fn an_instruction_that_kvm_can_not_emulate_is_named() {
    // ldmxcsr from device registers: no KVM emulates it, whatever the processor.
    let code = [0x0f, 0xae, 0x15, 0x00, 0x00, 0x00, 0xc0];
    // mov eax, cr4; or eax, 0x200 (OSFXSR); mov cr4, eax
    let mut program = vec![0x0f, 0x20, 0xe0, 0x0d, 0x00, 0x02, 0x00, 0x00, 0x0f, 0x22, 0xe0];
    program.extend(code);
    let Some(running) = run("an_instruction_that_kvm_can_not_emulate_is_named", 1, &program) else { return };
    let end = running.end();
    assert_eq!(end.reason, ExitReason::InternalError, "{}", end.message);
    for part in ["vCPU 0 at rip 0x10000b", "ldmxcsr", "0f ae 15 00 00 00 c0"] {
        assert!(end.message.contains(part), "{part} is missing in {}", end.message);
    }
}

#[test]
fn a_device_ends_the_guest_before_its_next_instruction() {
    // mov al, 0x34; mov dx, 0x600; out dx, al; out 0x80, al
    let code = [0xb0, 0x34, 0x66, 0xba, 0x00, 0x06, 0xee, 0xe6, 0x80];
    let Some(running) = run("a_device_ends_the_guest_before_its_next_instruction", 1, &code) else { return };
    let writes = {
        let deadline = Instant::now() + PATIENCE;
        while running.request.reason().is_none() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let end = running.group.end().unwrap();
        assert_eq!(end.reason, ExitReason::PowerOff);
        running.group.stop().unwrap();
        running.writes
    };
    assert!(writes.try_recv().is_err(), "an instruction ran after the end");
}

#[test]
fn pause_stops_and_resume_goes_on() {
    // 1: out 0x80, al; jmp 1b
    let Some(running) = run("pause_stops_and_resume_goes_on", 1, &[0xe6, 0x80, 0xeb, 0xfc]) else { return };
    for _ in 0..20 {
        running.write();
        running.group.pause().unwrap();
        while running.writes.try_recv().is_ok() {}
        std::thread::sleep(Duration::from_millis(2));
        assert!(running.writes.try_recv().is_err(), "the guest ran while it was paused");
        running.group.resume().unwrap();
    }
    running.write();
    running.group.pause().unwrap();
    running.group.stop().unwrap();
}

#[test]
fn a_halted_guest_can_be_paused_and_an_idle_one_is_left_alone() {
    // sti; 1: hlt; jmp 1b
    let Some(mut running) = run("a_halted_guest_can_be_paused", 2, &[0xfb, 0xf4, 0xeb, 0xfd]) else { return };
    for _ in 0..8 {
        running.group.look_for_halt().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    running.group.pause().unwrap();
    running.group.resume().unwrap();
    running.group.pause().unwrap();
    assert_eq!(running.request.reason(), None);
    running.group.stop().unwrap();
}

#[test]
fn a_write_to_an_ioeventfd_is_no_exit() {
    let Some(hypervisor) = kvm("a_write_to_an_ioeventfd_is_no_exit") else { return };
    let machine = hypervisor.create_machine().unwrap().build(&spec(1, None)).unwrap();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    machine.register_ioeventfd(&event, MMIO + 0x50, 1).unwrap();
    machine.register_irqfd(&EventFd::new(EFD_NONBLOCK).unwrap(), 5).unwrap();
    let code = [
        0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
        0xa3, 0x50, 0x00, 0x00, 0xc0, // mov [0xc0000050], eax
        0x40, // inc eax
        0xa3, 0x50, 0x00, 0x00, 0xc0, // mov [0xc0000050], eax
        0xf4, // hlt
    ];
    let running = start(machine, &code);
    running.group.resume().unwrap();
    assert_eq!(running.write(), (0x50, vec![2, 0, 0, 0]));
    assert_eq!(event.read().unwrap(), 1);
    running.end();
}

#[test]
fn templates_are_applied_or_refused() {
    let build = |json: &str| {
        let template: CpuTemplate = serde_json::from_str(json).unwrap();
        let hypervisor = kvm("templates_are_applied_or_refused")?;
        let machine = hypervisor.create_machine().unwrap().build(&spec(2, Some(&template)));
        Some(machine.map(drop).map_err(|error| error.to_string()))
    };
    let leaf = |leaf: &str, register: &str, bitmap: &str| {
        format!(
            r#"{{"cpuid_modifiers": [{{"leaf": "{leaf}", "subleaf": "0x0", "flags": 0,
                "modifiers": [{{"register": "{register}", "bitmap": "{bitmap}"}}]}}]}}"#
        )
    };
    let Some(applied) = build(&leaf("0x1", "ecx", "0b00xxxxxxxxxxxxx")) else { return };
    applied.unwrap();
    let refused = build(&leaf("0x12345", "eax", "0b0")).unwrap().unwrap_err();
    assert!(refused.contains("leaf 0x12345"), "{refused}");
    // OSXSAVE mirrors CR4, which is 0.
    let refused = build(&leaf("0x1", "ecx", "0b1xxxxxxxxxxxxxxxxxxxxxxxxxxx")).unwrap().unwrap_err();
    assert!(refused.contains("0x08000000"), "{refused}");
    let msr = r#"{"msr_modifiers": [{"addr": "0x1a0", "bitmap": "0b1"}]}"#;
    build(msr).unwrap().unwrap();
    let refused = build(r#"{"msr_modifiers": [{"addr": "0x12345", "bitmap": "0b1"}]}"#).unwrap().unwrap_err();
    assert!(refused.contains("register 0x12345"), "{refused}");
    let refused = build(r#"{"kvm_capabilities": ["9999"]}"#).unwrap().unwrap_err();
    assert!(refused.contains("9999"), "{refused}");
    build(r#"{"kvm_capabilities": ["!32", "121"]}"#).unwrap().unwrap();
}

#[test]
fn a_descriptor_that_is_not_kvm_is_refused() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = Hypervisor::open(Some(null.into())).unwrap_err().to_string();
    assert!(error.contains("is this descriptor /dev/kvm?"), "{error}");
}
