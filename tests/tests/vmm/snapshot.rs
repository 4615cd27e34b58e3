//! Snapshots: guests go on in copies, with their devices, and what is no snapshot is refused.

use std::fs::File;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use stockade_tests::guest::{self, Protocol};
use stockade_tests::memory::COUNTER;
use stockade_tests::puppet::Puppet;
use stockade_tests::virtio::{Device, feature, flag, register, status};
use stockade_tests::vmm::{Builder, Exit, Vmm};
use stockade_tests::{Need, Scratch, test, wait_for};
use stockade_vmm::snapshot::SavedVm;

use crate::block::{self, BLOCK, Block};
use crate::entropy::ENTROPY;
use crate::vsock::{Header, VSOCK};

fn create_body(scratch: &Scratch) -> Value {
    json!({ "snapshot_path": scratch.join("state"), "mem_file_path": scratch.join("memory") })
}

fn load_body(scratch: &Scratch) -> Value {
    let backend = json!({ "backend_type": "File", "backend_path": scratch.join("memory") });
    json!({ "snapshot_path": scratch.join("state"), "mem_backend": backend, "resume_vm": true })
}

fn save(vmm: &Vmm, scratch: &Scratch) {
    vmm.set_state("Paused");
    vmm.put("/snapshot/create", &create_body(scratch));
}

/// A vmm that may make the files of snapshots.
fn saving(scratch: &Scratch) -> Builder {
    Builder::new(scratch).argument("--snapshot-files")
}

fn restore(scratch: &Scratch, vsock: Option<&str>) -> Vmm {
    let vmm = saving(scratch).start();
    let mut body = load_body(scratch);
    if let Some(path) = vsock {
        body["vsock_override"] = json!({ "uds_path": scratch.join(path) });
    }
    vmm.put("/snapshot/load", &body);
    vmm
}

fn wait_counts(vmm: &Vmm, from: u64) {
    let memory = vmm.memory();
    let now = memory.read_u64(COUNTER);
    assert!(now >= from, "{now} is before {from}");
    wait_for("the guest to count", || (memory.read_u64(COUNTER) > now).then_some(()));
}

#[test]
fn a_guest_goes_on_where_it_was() {
    test(&[Need::Kvm], |scratch| {
        let vmm = saving(scratch).start_with(scratch, guest::SPIN, Protocol::Linux64);
        vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
        vmm.start_guest();
        let memory = vmm.memory();
        wait_for("the guest to count", || (memory.read_u64(COUNTER) > 1000).then_some(()));
        save(&vmm, scratch);
        let saved = memory.read_u64(COUNTER);
        let before = std::fs::read(scratch.join("memory")).unwrap();
        assert_eq!(before.len(), 64 << 20);

        let copies = [restore(scratch, None), restore(scratch, None)];
        for copy in &copies {
            wait_counts(copy, saved);
            assert_eq!(copy.request("GET", "/machine-config", "").json()["mem_size_mib"], 64);
            assert_eq!(copy.request("GET", "/", "").json()["state"], "Running");
        }
        // A copy is a VM like any other. The files that copies come from must not be written to while there are copies.
        copies[0].set_state("Paused");
        let (state, memory_file) = (scratch.join("other_state"), scratch.join("other_memory"));
        copies[0].put("/snapshot/create", &json!({ "snapshot_path": state, "mem_file_path": memory_file }));
        let again = copies[0].memory().read_u64(COUNTER);
        let backend = json!({ "backend_type": "File", "backend_path": memory_file });
        let copy = Builder::new(scratch).start();
        copy.put("/snapshot/load", &json!({ "snapshot_path": state, "mem_backend": backend, "resume_vm": true }));
        wait_counts(&copy, again);
        assert_eq!(memory.read_u64(COUNTER), saved, "the one that was saved stands still");
        vmm.set_state("Resumed");
        wait_counts(&vmm, saved);
    });
}

#[test]
fn all_processors_go_on() {
    const COUNTERS: u64 = 0x7f00;
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start_in(scratch, saving(scratch).start(), Protocol::Linux64, |vmm| {
            vmm.put("/machine-config", &json!({ "vcpu_count": 2, "mem_size_mib": 64 }));
        });
        puppet.memory().write(COUNTERS, &[0; 8]);
        // 1: lock incw 0x7f00; jmp 1b
        puppet.start_other_processors(&[0xf0, 0xff, 0x06, 0x00, 0x7f, 0xeb, 0xf9]);
        wait_for("the other one", || (puppet.memory().read_u16(COUNTERS) != 0).then_some(()));
        save(puppet.vmm(), scratch);
        let copy = Puppet::restored(restore(scratch, None));
        let before = copy.memory().read_u16(COUNTERS);
        wait_for("the other one", || (copy.memory().read_u16(COUNTERS) != before).then_some(()));
        assert_eq!(copy.in_8(0x64) & 0x10, 0x10, "the first one obeys");
    });
}

#[test]
fn devices_go_on() {
    test(&[Need::Kvm], |scratch| {
        let content = block::pattern(64);
        let disk = scratch.file("disk", &content);
        let mut puppet = Puppet::start_in(scratch, saving(scratch).start(), Protocol::Pvh, |vmm| {
            vmm.put("/drives/disk", &json!({ "drive_id": "disk", "path_on_host": disk, "is_root_device": false }));
            vmm.put("/entropy", &json!({}));
            vmm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": scratch.join("vsock") }));
        });
        save_and_use(&mut puppet, scratch, &content);
    });
}

fn save_and_use(puppet: &mut Puppet, scratch: &Scratch, content: &[u8]) {
    const SECTORS: usize = 4;
    let (entropy_before, block_queue, queues);
    {
        let mut disk = Block::open(puppet, Device::find(puppet, BLOCK), 0);
        assert_eq!(disk.read(3, SECTORS * block::SECTOR), &content[3 * block::SECTOR..][..SECTORS * block::SECTOR]);
        block_queue = disk.queue.place();

        let entropy = Device::find(puppet, ENTROPY);
        assert!(entropy.negotiate(feature::VERSION_1));
        let mut queue = entropy.queue(0);
        entropy.driver_ok();
        queue.submit(&[(queue.buffers(), 32, flag::WRITE)]);
        queue.kick();
        queue.wait_used();
        entropy_before = (queue.place(), puppet.memory().read_array::<32>(queue.buffers()));

        let vsock = Device::find(puppet, VSOCK);
        assert!(vsock.negotiate(feature::VERSION_1));
        let (mut receive, transmit, mut events) = (vsock.queue(0), vsock.queue(1), vsock.queue(2));
        vsock.driver_ok();
        receive.submit(&[(receive.buffers(), 4096, flag::WRITE)]);
        events.submit(&[(events.buffers(), 4, flag::WRITE)]);
        puppet.memory().write(events.buffers(), &[0xee; 4]);
        queues = (receive.place(), transmit.place(), events.place());
    }
    save(puppet.vmm(), scratch);

    for copy in 0..2 {
        let socket = format!("copy{copy}");
        let listener = UnixListener::bind(scratch.join(&format!("{socket}_52"))).unwrap();
        let copy = Puppet::restored(restore(scratch, Some(&socket)));
        let disk = Device::find(&copy, BLOCK);
        assert_eq!(disk.status() & status::DRIVER_OK, status::DRIVER_OK);
        // What the driver fixed stays fixed.
        disk.write(register::QUEUE_SEL, 0);
        disk.write(register::QUEUE_DESC, 0x1000);
        disk.write(register::QUEUE_READY, 0);
        assert_eq!(disk.read(register::QUEUE_READY), 1);
        let mut disk = Block::resumed(&copy, disk, block_queue.of(&copy));
        assert_eq!(disk.read(5, block::SECTOR), &content[5 * block::SECTOR..][..block::SECTOR]);

        let mut queue = entropy_before.0.of(&copy);
        queue.submit(&[(queue.buffers(), 32, flag::WRITE)]);
        queue.kick();
        assert_eq!(queue.wait_used().written, 32);
        assert_ne!(copy.memory().read_array::<32>(queue.buffers()), entropy_before.1);

        let (mut receive, mut transmit, mut events) = (queues.0.of(&copy), queues.1.of(&copy), queues.2.of(&copy));
        assert_eq!(events.wait_used().written, 4, "the transport was reset");
        assert_eq!(copy.memory().read_array::<4>(events.buffers()), [0; 4]);
        copy.memory().write(transmit.buffers(), &Header::request(1234, 52).bytes());
        transmit.submit(&[(transmit.buffers(), 44, 0)]);
        transmit.kick();
        listener.accept().unwrap();
        assert_eq!(receive.wait_used().written, 44);
    }
}

#[test]
fn descriptors_are_enough() {
    test(&[Need::Kvm], |scratch| {
        let new = |name: &str| {
            File::options().read(true).write(true).create(true).truncate(true).open(scratch.join(name)).unwrap()
        };
        let vmm = Builder::sealed(scratch, guest::SPIN, Protocol::Pvh)
            .descriptor("new_snapshot", new("state"))
            .descriptor("new_memory", new("memory"))
            .start();
        vmm.put("/boot-source", &json!({ "kernel_image_path": "fd:kernel", "boot_args": "" }));
        vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
        vmm.start_guest();
        let memory = vmm.memory();
        wait_for("the guest to count", || (memory.read_u64(COUNTER) > 10).then_some(()));
        vmm.set_state("Paused");
        vmm.put("/snapshot/create", &json!({ "snapshot_path": "fd:new_snapshot", "mem_file_path": "fd:new_memory" }));
        let saved = memory.read_u64(COUNTER);

        let backend = json!({ "backend_type": "File", "backend_path": "fd:memory" });
        let load = json!({ "snapshot_path": "fd:snapshot", "mem_backend": backend, "resume_vm": true });
        let config = scratch.file("config", json!({ "snapshot": load }).to_string().as_bytes());
        let copy = Builder::sealed(scratch, guest::SPIN, Protocol::Pvh)
            .descriptor("snapshot", File::open(scratch.join("state")).unwrap())
            .descriptor("memory", File::open(scratch.join("memory")).unwrap())
            .descriptor("config", File::open(config).unwrap())
            .arguments(["--config-file", "fd:config"])
            .start();
        wait_counts(&copy, saved);
        let refused = copy.request("PUT", "/snapshot/create", &create_body(scratch).to_string());
        assert_eq!(refused.status, 400);
        copy.set_state("Paused");
        let refused = copy.request("PUT", "/snapshot/create", &create_body(scratch).to_string());
        assert!(refused.body.contains("opens none"), "{}", refused.body);
    });
}

/// Driven by paths, but without the option, a vmm opens none once the guest runs.
#[test]
fn no_file_is_made_unless_it_was_asked_for() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::SPIN, Protocol::Linux64);
        vmm.start_guest();
        vmm.set_state("Paused");
        let refused = vmm.request("PUT", "/snapshot/create", &create_body(scratch).to_string());
        assert_eq!(refused.status, 400);
        for part in ["snapshot_path: ", "--snapshot-files", "fd:new_snapshot", "fd:new_memory"] {
            assert!(refused.body.contains(part), "{part}: {}", refused.body);
        }
        assert!(!scratch.join("state").exists());
        vmm.set_state("Resumed");
        wait_counts(&vmm, 0);

        let new =
            |name: &str| File::options().read(true).write(true).create_new(true).open(scratch.join(name)).unwrap();
        let vmm = Builder::new(scratch)
            .descriptor("new_snapshot", new("state"))
            .descriptor("new_memory", new("memory"))
            .start_with(scratch, guest::SPIN, Protocol::Linux64);
        vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
        vmm.start_guest();
        vmm.set_state("Paused");
        vmm.put("/snapshot/create", &json!({ "snapshot_path": "fd:new_snapshot", "mem_file_path": "fd:new_memory" }));
        wait_counts(&restore(scratch, None), 0);
    });
}

#[test]
fn requests_out_of_place_are_refused() {
    test(&[Need::Kvm], |scratch| {
        let refused = |vmm: &Vmm, target: &str, body: &Value, part: &str| {
            let response = vmm.request("PUT", target, &body.to_string());
            assert_eq!(response.status, 400, "{body}");
            assert!(response.body.contains(part), "{body}: {}", response.body);
        };
        let vmm = saving(scratch).start_with(scratch, guest::SPIN, Protocol::Linux64);
        refused(&vmm, "/snapshot/create", &create_body(scratch), "not supported before starting");
        refused(&vmm, "/snapshot/load", &load_body(scratch), "not allowed after configuring boot-specific resources");
        refused(&vmm, "/snapshot", &json!({}), "Missing snapshot operation type.");
        refused(&vmm, "/snapshot/create", &json!({ "snapshot_path": "a" }), "missing field `mem_file_path`");
        refused(&vmm, "/snapshot/load", &json!({ "snapshot_path": "a", "x": 1 }), "unknown field `x`");
        vmm.start_guest();
        refused(&vmm, "/snapshot/create", &create_body(scratch), "save/restore unavailable while running");
        refused(&vmm, "/snapshot/load", &load_body(scratch), "not supported after starting");
        vmm.set_state("Paused");
        let mut diff = create_body(scratch);
        diff["snapshot_type"] = json!("Diff");
        refused(&vmm, "/snapshot/create", &diff, "use Full");
        refused(&vmm, "/snapshot/create", &json!({ "snapshot_path": "/no/a", "mem_file_path": "/no/b" }), "/no/a");
        vmm.put("/snapshot/create", &create_body(scratch));

        // Each of these ends the vmm that was asked.
        let network = json!([{ "iface_id": "1", "host_dev_name": "tap" }]);
        for (field, value, part) in [
            ("track_dirty_pages", json!(true), "track_dirty_pages"),
            ("enable_diff_snapshots", json!(true), "enable_diff_snapshots"),
            ("network_overrides", network, "network_overrides"),
            ("huge_pages", json!("2M"), "huge_pages"),
            ("mem_file_path", json!("m"), "exclusively"),
            ("mem_backend", Value::Null, "exclusively"),
            ("mem_backend", json!({ "backend_type": "Uffd", "backend_path": "u" }), "Uffd"),
            ("snapshot_path", json!("/no/such"), "/no/such"),
            ("snapshot_path", json!(scratch.join("memory")), "none of Stockade's"),
        ] {
            let mut body = load_body(scratch);
            body[field] = value;
            assert_refused_and_ends(scratch, &body, part);
        }
        let old = json!({ "snapshot_path": scratch.join("state"), "mem_file_path": scratch.join("memory") });
        let vmm = Builder::new(scratch).start();
        let response = vmm.request("PUT", "/snapshot/load", &old.to_string());
        assert_eq!((response.status, response.header("Deprecation")), (204, Some("true")), "{}", response.body);
        assert_eq!(vmm.request("GET", "/", "").json()["state"], "Paused");
        vmm.set_state("Resumed");
        wait_counts(&vmm, 0);
    });
}

fn assert_refused_and_ends(scratch: &Scratch, body: &Value, part: &str) {
    let vmm = Builder::new(scratch).start();
    let response = vmm.request("PUT", "/snapshot/load", &body.to_string());
    assert_eq!(response.status, 400, "{body}");
    assert!(response.body.contains("Load snapshot error: ") && response.body.contains(part), "{}", response.body);
    let (exit, _, log, _) = vmm.finish();
    assert_eq!(exit, Exit::Code(1), "{log}");
}

#[test]
fn damaged_files_are_refused() {
    test(&[Need::Kvm], |scratch| {
        let disk = scratch.file("disk", block::pattern(8));
        let mut puppet = Puppet::start_in(scratch, saving(scratch).start(), Protocol::Pvh, |vmm| {
            vmm.put("/drives/disk", &json!({ "drive_id": "disk", "path_on_host": disk, "is_root_device": false }));
        });
        Block::open(&puppet, Device::find(&puppet, BLOCK), 0);
        save(puppet.vmm(), scratch);
        let good = std::fs::read(scratch.join("state")).unwrap();
        let refuse = |bytes: &[u8], part: &str| {
            scratch.file("state", bytes);
            assert_refused_and_ends(scratch, &load_body(scratch), part);
        };
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        refuse(&[], "none of Stockade's");
        refuse(&good[..20], "should have");
        refuse(&good[..good.len() - 1], "should have");
        refuse(&[good.as_slice(), &[0]].concat(), "should have");
        refuse(&flipped(0), "none of Stockade's");
        refuse(&flipped(8), "version");
        refuse(&flipped(20), "digest");
        refuse(&flipped(good.len() / 2), "digest");

        // With a digest that fits, the content is still believed nothing.
        let edited = |edit: &dyn Fn(&mut SavedVm)| {
            let mut saved = SavedVm::decode(&good).unwrap();
            edit(&mut saved);
            saved.encode().unwrap()
        };
        let first = |edit: fn(&mut stockade_devices::virtio::state::DeviceState)| {
            edited(&|saved: &mut SavedVm| edit(&mut saved.devices[0]))
        };
        refuse(&first(|device| device.queues[0].descriptors = 0xffff_ffff_f000), "queue outside of memory");
        refuse(&first(|device| device.queues[0].used += 1), "queue outside of memory");
        refuse(&first(|device| device.queues[0].size = 3), "queue register");
        refuse(&first(|device| device.queues[0].size = 32768), "queue register");
        refuse(&first(|device| device.queues.clear()), "0 queues");
        refuse(&first(|device| device.driver_features |= 1 << 50), "features not offered");
        refuse(&first(|device| device.status = 4), "device status out of order");
        refuse(&first(|device| device.device_type = 4), "device of type 4");
        refuse(&edited(&|saved| saved.devices.clear()), "0 virtio devices");
        refuse(&edited(&|saved| saved.serial.input = vec![0; 1000]), "more than it has room for");

        scratch.file("state", &good);
        File::options().write(true).open(scratch.join("memory")).unwrap().set_len(1 << 20).unwrap();
        assert_refused_and_ends(scratch, &load_body(scratch), "another state");
    });
}
