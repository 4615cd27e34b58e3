//! A vmm that opens no path, as in the sealed jail, has everything that one with paths has.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stockade_tests::guest::{self, Guest, Protocol};
use stockade_tests::memory::COUNTER;
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::{Builder, Exit, Vmm};
use stockade_tests::{Need, Scratch, test, wait_for};
use stockade_vmm_api::exit::ExitReason;

fn start(scratch: &Scratch, guest: Guest, machine: &Value) -> Vmm {
    let vmm = Builder::sealed(scratch, guest, Protocol::Pvh).start();
    vmm.put("/boot-source", &json!({ "kernel_image_path": "fd:kernel", "boot_args": "" }));
    vmm.put("/machine-config", machine);
    vmm.start_guest();
    vmm
}

#[test]
fn ends_are_seen() {
    test(&[Need::Kvm], |scratch| {
        for (guest, reason) in [
            (guest::HELLO, ExitReason::Reset),
            (guest::HALT, ExitReason::Halted),
            (guest::TRIPLE_FAULT, ExitReason::TripleFault),
            (guest::UNKNOWN_INSTRUCTION, ExitReason::InternalError),
        ] {
            let vmm = start(scratch, guest, &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
            let (exit, _, log, _) = vmm.finish();
            assert_eq!(exit, Exit::Code(reason.code().into()), "{log}");
        }
    });
}

#[test]
fn it_is_paused_and_resumed() {
    test(&[Need::Kvm], |scratch| {
        let vmm = start(scratch, guest::SPIN, &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
        let memory = vmm.memory();
        vmm.set_state("Paused");
        let before = memory.read_u64(COUNTER);
        vmm.set_state("Resumed");
        wait_for("the guest to count", || (memory.read_u64(COUNTER) != before).then_some(()));
    });
}

/// A vmm for this guest, with descriptors and with paths.
fn both(scratch: &Scratch, guest: Guest) -> [Vmm; 2] {
    let sealed = Builder::sealed(scratch, guest, Protocol::Pvh).start();
    sealed.put("/boot-source", &json!({ "kernel_image_path": "fd:kernel", "boot_args": "" }));
    [sealed, Vmm::with_guest(scratch, guest, Protocol::Pvh)]
}

/// Whether there are pages is the host's affair; what counts is that the filters leave the choice, and that it is said.
#[test]
fn memory_may_have_huge_pages() {
    test(&[Need::Kvm], |scratch| {
        for vmm in both(scratch, guest::HELLO) {
            vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "Transparent" }));
            vmm.start_guest();
            assert_eq!(vmm.finish().0, Exit::Code(ExitReason::Reset.code().into()));
        }
        for vmm in both(scratch, guest::IDLE) {
            vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "2M" }));
            let response = vmm.request("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
            let expected = if response.status == 204 { "Running" } else { "Not started" };
            assert_eq!(vmm.request("GET", "/", "").json()["state"], expected, "{}", response.body);
            if response.status != 204 {
                assert!(response.body.contains("reserve 32 pages of 2 MiB"), "{}", response.body);
                assert!(response.body.contains("vm.nr_hugepages"), "{}", response.body);
            }
        }
    });
}

#[test]
fn a_template_is_checked_against_what_the_guest_gets() {
    // The highest entry of the page attribute table, which no guest uses.
    let bitmap = format!("0b001{}", "x".repeat(56));
    let template = json!({
        "cpuid_modifiers": [{
            "leaf": "0x80000001",
            "subleaf": "0x0",
            "flags": 0,
            "modifiers": [{ "register": "ecx", "bitmap": "0b0xxxxx" }],
        }],
        "msr_modifiers": [{ "addr": "0x277", "bitmap": bitmap }],
    });
    test(&[Need::Kvm], |scratch| {
        let configure = |vmm: &Vmm| vmm.put("/cpu-config", &template);
        for puppet in
            [Puppet::start_sealed(scratch, [], configure), Puppet::start_with(scratch, Protocol::Pvh, configure)]
        {
            assert_eq!(puppet.cpuid(0x8000_0001, 0)[2] & 1 << 5, 0);
        }
    });
}

/// A control group that lets a vmm have no more than so many threads.
struct ThreadLimit(PathBuf);

impl ThreadLimit {
    /// In the pids controller, of version 1 or else 2.
    fn of(vmm: &Vmm, scratch: &Scratch, threads: u32) -> Self {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|root| root.is_dir()).expect("no control groups");
        let group = Self(root.join(scratch.vm_name()));
        std::fs::create_dir(&group.0).unwrap();
        group.write("pids.max", threads);
        group.write("cgroup.procs", vmm.pid());
        group
    }

    fn write(&self, file: &str, value: impl Display) {
        std::fs::write(self.0.join(file), value.to_string()).unwrap();
    }
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        // Busy until the kernel is done with the vmm's last thread.
        wait_for("the control group to be empty", || std::fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn a_start_that_may_not_have_its_threads_can_be_repeated() {
    test(&[Need::Kvm], |scratch| {
        for vmm in both(scratch, guest::IDLE) {
            vmm.put("/machine-config", &json!({ "vcpu_count": 32, "mem_size_mib": 64 }));
            let limit = ThreadLimit::of(&vmm, scratch, 10);
            // Outlived by its group.
            let vmm = vmm;
            let response = vmm.request("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
            assert!(response.fault_message().contains("start the thread of vCPU 8"), "{}", response.body);
            limit.write("pids.max", "max");
            vmm.start_guest();
            vmm.console().wait_for("idle");
        }
    });
}

#[test]
fn no_api_is_needed() {
    test(&[Need::Kvm], |scratch| {
        let config = |kernel: &str| {
            let config = json!({
                "boot-source": { "kernel_image_path": kernel, "boot_args": "" },
                "machine-config": { "vcpu_count": 2, "mem_size_mib": 64 },
                "drives": [],
            });
            // As long as no small buffer is.
            scratch.file("config", format!("{config}{}", " ".repeat(1_000_000)))
        };
        let kernel = scratch.file("kernel", guest::HELLO.image(Protocol::Pvh));
        let builder = || Builder::bare().arguments(["--id", "config", "--no-api", "--config-file"]);
        let paths = builder().argument(config(kernel.to_str().unwrap())).start();
        assert_eq!(paths.finish().0, Exit::Code(0));
        let sealed = builder()
            .argument("fd:config")
            .descriptor("kvm", File::options().read(true).write(true).open("/dev/kvm").unwrap())
            .descriptor("kernel", File::open(&kernel).unwrap())
            .descriptor("config", File::open(config("fd:kernel")).unwrap());
        let (exit, console, log, _) = sealed.start().finish();
        assert_eq!((exit, console.as_str()), (Exit::Code(0), "hello from the guest\r\n"), "{log}");
    });
}
