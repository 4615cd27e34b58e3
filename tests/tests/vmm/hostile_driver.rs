//! What a driver must not do: the device asks for a reset, and works again after it. Nothing else happens.

use serde_json::json;
use stockade_tests::guest::Protocol;
use stockade_tests::puppet::Puppet;
use stockade_tests::virtio::{Buffer, Descriptor, Device, QUEUE_SIZE, Queue, feature, flag, register, status};
use stockade_tests::{Need, test};

use crate::block::{BLOCK, Block, IO_ERROR, SECTOR, pattern};
use crate::entropy::ENTROPY;
use crate::vsock::VSOCK;

/// Beyond the memory of these guests, which have 64 MiB.
const OUTSIDE: u64 = 64 << 20;

/// A guest with one device of each kind; afterwards the disk must still work, and the vmm live.
fn with_devices(body: impl FnOnce(&Puppet)) {
    test(&[Need::Kvm], |scratch| {
        let disk = scratch.file("disk", pattern(64));
        let mut puppet = Puppet::start_with(scratch, Protocol::Pvh, |vmm| {
            vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
            vmm.put("/drives/disk", &json!({ "drive_id": "disk", "path_on_host": disk, "is_root_device": false }));
            vmm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": scratch.join("vsock") }));
            vmm.put("/entropy", &json!({}));
        });
        body(&puppet);
        let mut block = Block::open(&puppet, Device::find(&puppet, BLOCK), 0);
        assert!(block.read(7, SECTOR) == pattern(64)[7 * SECTOR..8 * SECTOR]);
        assert!(puppet.vmm().is_running());
        assert!(std::fs::read(disk).unwrap() == pattern(64), "the disk is untouched");
    });
}

/// The queue of each device that takes buffers from the driver, and whether the device writes to them.
const QUEUES: [(u32, u32); 4] = [(BLOCK, 0), (ENTROPY, 0), (VSOCK, 0), (VSOCK, 1)];

/// Makes a mistake on a fresh queue of every device, and waits until the device objects.
fn each_queue_objects(mistakes: &[&dyn Fn(&mut Queue<'_>)]) {
    with_devices(|puppet| {
        for (number, mistake) in mistakes.iter().enumerate() {
            each_queue_objects_to(puppet, number, mistake);
        }
    });
}

fn each_queue_objects_to(puppet: &Puppet, number: usize, mistake: &dyn Fn(&mut Queue<'_>)) {
    for (id, index) in QUEUES {
        let device = Device::find(puppet, id);
        assert!(device.negotiate(feature::VERSION_1));
        let mut queues: Vec<_> = (0..if id == VSOCK { 3 } else { 1 }).map(|index| device.queue(index)).collect();
        device.driver_ok();
        mistake(&mut queues[index as usize]);
        queues[index as usize].kick();
        if (id, index) == (VSOCK, 0) {
            // Receive buffers are looked at when there is something to receive: an answer to this nonsense.
            let at = queues[1].buffers();
            puppet.memory().write(at, &crate::vsock::Header::request(1, 99).bytes());
            queues[1].submit(&[(at, 44, 0)]);
            queues[1].kick();
        }
        eprintln!("mistake {number}, device {id}, queue {index}");
        device.wait_needs_reset();
        assert_ne!(device.take_interrupts() & 2, 0, "the driver is told by a configuration interrupt");
    }
}

fn raw(queue: &mut Queue<'_>, descriptors: &[Descriptor]) {
    for (index, descriptor) in (0..).zip(descriptors) {
        queue.set_descriptor(index, *descriptor);
    }
    queue.make_available(0);
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, length, flags, next }
}

#[test]
fn a_head_outside_the_table() {
    each_queue_objects(&[&|queue| queue.make_available(QUEUE_SIZE), &|queue| queue.make_available(u16::MAX)]);
}

#[test]
fn a_next_outside_the_table() {
    each_queue_objects(&[&|queue| {
        let at = queue.buffers();
        raw(queue, &[descriptor(at, 16, flag::NEXT, QUEUE_SIZE)]);
    }]);
}

#[test]
fn chains_that_never_end() {
    each_queue_objects(&[
        &|queue| {
            let at = queue.buffers();
            raw(queue, &[descriptor(at, 16, flag::NEXT, 0)]);
        },
        &|queue| {
            let at = queue.buffers();
            raw(queue, &[descriptor(at, 16, flag::NEXT, 1), descriptor(at, 16, flag::NEXT, 0)]);
        },
    ]);
}

#[test]
fn more_available_than_the_queue_holds() {
    each_queue_objects(&[&|queue| queue.set_available_index(QUEUE_SIZE + 1), &|queue| {
        queue.set_available_index(u16::MAX);
    }]);
}

#[test]
fn buffers_outside_memory() {
    let buffers = [
        (OUTSIDE, 44),
        (OUTSIDE - 8, 44),
        (0xc000_1000, 44),
        (1 << 63, 44),
        (u64::MAX - 7, 44),
        (0x200_0000, u32::MAX),
        (u64::MAX, u32::MAX),
    ];
    with_devices(|puppet| {
        for (number, (address, length)) in buffers.into_iter().enumerate() {
            for flags in [0, flag::WRITE] {
                each_queue_objects_to(puppet, number, &|queue| raw(queue, &[descriptor(address, length, flags, 0)]));
            }
        }
    });
}

#[test]
fn indirect_tables_that_were_not_negotiated() {
    each_queue_objects(&[&|queue| {
        let at = queue.buffers();
        raw(queue, &[descriptor(at, 32, flag::INDIRECT, 0)]);
    }]);
}

#[test]
fn readable_after_writable() {
    with_devices(|puppet| {
        let mut block = Block::open(puppet, Device::find(puppet, BLOCK), 0);
        let at = block.queue.buffers();
        block.queue.submit(&[
            (at, 16, 0),
            (at + 512, 512, flag::WRITE),
            (at + 1024, 512, 0),
            (at + 2048, 1, flag::WRITE),
        ]);
        block.queue.kick();
        block.device.wait_needs_reset();
    });
}

#[test]
fn block_requests_without_their_parts() {
    let at = |queue: &Queue<'_>, offset: u64| queue.buffers() + offset;
    let chains: [fn(u64) -> Vec<Buffer>; 5] = [
        |at| vec![(at, 16, 0)],
        |at| vec![(at, 8, 0), (at + 1024, 1, flag::WRITE)],
        |at| vec![(at, 16, flag::WRITE), (at + 1024, 1, flag::WRITE)],
        |at| vec![(at, 16, 0), (at + 512, 512, 0), (at + 1024, 1, 0)],
        |at| vec![(at + 1024, 1, flag::WRITE)],
    ];
    with_devices(|puppet| {
        for (index, chain) in chains.iter().enumerate() {
            let mut block = Block::open(puppet, Device::find(puppet, BLOCK), 0);
            let start = at(&block.queue, 0);
            puppet.memory().write(start, &[0; 16]);
            block.queue.submit(&chain(start));
            block.queue.kick();
            eprintln!("chain {index}");
            block.device.wait_needs_reset();
        }
    });
}

#[test]
fn data_that_is_no_whole_sector_is_an_error() {
    with_devices(|puppet| {
        // In the second, the last byte of data is the last that can be written, so it is the status.
        for (data, status_bytes, status_at) in [(100, 1, 0x100), (512, 0, 0x1000 + 511)] {
            let mut block = Block::open(puppet, Device::find(puppet, BLOCK), 0);
            let at = block.queue.buffers();
            puppet.memory().write(at, &[0; 0x2000]);
            block.queue.submit(&[
                (at, 16, 0),
                (at + 0x1000, data, flag::WRITE),
                (at + 0x100, status_bytes, flag::WRITE),
            ]);
            block.queue.kick();
            stockade_tests::wait_for("the device to object", || {
                let refused = puppet.memory().read_array::<1>(at + status_at) == [IO_ERROR];
                (refused || block.device.status() & status::NEEDS_RESET != 0).then_some(())
            });
        }
    });
}

#[test]
fn queues_that_are_nowhere() {
    with_devices(|puppet| {
        for (id, _) in QUEUES {
            for (size, descriptors, available, used) in [
                (16, OUTSIDE, OUTSIDE, OUTSIDE),
                (16, 0x100_0000, 0x100_1000, OUTSIDE - 4),
                (16, 0x100_0000, OUTSIDE, 0x100_2000),
                (16, u64::MAX - 15, u64::MAX - 1, u64::MAX - 3),
                (16, 0x100_0001, 0x100_1000, 0x100_2000),
                (16, 0x100_0000, 0x100_1001, 0x100_2000),
                (16, 0x100_0000, 0x100_1000, 0x100_2002),
                (0, 0x100_0000, 0x100_1000, 0x100_2000),
                (3, 0x100_0000, 0x100_1000, 0x100_2000),
                (512, 0x100_0000, 0x100_1000, 0x100_2000),
                (u32::MAX, 0x100_0000, 0x100_1000, 0x100_2000),
                (0x1_0010, 0x100_0000, 0x100_1000, 0x100_2000),
            ] {
                let device = Device::find(puppet, id);
                assert!(device.negotiate(feature::VERSION_1));
                puppet.memory().write(0x100_0000, &[0; 0x3000]);
                device.announce(0, size, descriptors, available, used);
                device.driver_ok();
                device.write(register::QUEUE_NOTIFY, 0);
                // An unusable queue may be refused, ignored or be a reason for a reset: it must not be used.
                device.status();
            }
        }
    });
}

#[test]
fn features_that_were_not_offered() {
    with_devices(|puppet| {
        for (id, _) in QUEUES {
            let device = Device::find(puppet, id);
            let offered = device.features();
            assert_eq!(offered & (feature::RING_PACKED | feature::INDIRECT_DESC), 0);
            for bit in 0..64 {
                if offered & 1 << bit == 0 {
                    assert!(!device.negotiate(feature::VERSION_1 | 1 << bit), "device {id} takes feature {bit}");
                }
            }
            assert!(!device.negotiate(0), "a driver of the legacy interface is refused");
            assert!(device.negotiate(offered));
        }
    });
}

#[test]
fn features_and_queues_are_fixed_once_agreed() {
    with_devices(|puppet| {
        let mut block = Block::open(puppet, Device::find(puppet, BLOCK), 0);
        // What a driver does to a running device: nothing of it may move the queue.
        block.device.write(register::DRIVER_FEATURES_SEL, 0);
        block.device.write(register::DRIVER_FEATURES, u32::MAX);
        block.device.write(register::QUEUE_SEL, 0);
        for (register, value) in [
            (register::QUEUE_NUM, 2),
            (register::QUEUE_DESC, OUTSIDE as u32),
            (register::QUEUE_DRIVER, 3),
            (register::QUEUE_DEVICE, 0xc000_1000),
            (register::QUEUE_DEVICE + 4, u32::MAX),
        ] {
            block.device.write(register, value);
        }
        if block.device.status() & status::NEEDS_RESET == 0 {
            assert!(block.read(0, SECTOR) == pattern(1), "the queue is where it was");
        }
    });
}

#[test]
fn notifications_at_the_wrong_time() {
    with_devices(|puppet| {
        for (id, _) in QUEUES {
            let device = Device::find(puppet, id);
            device.write(register::STATUS, 0);
            for queue in [0, 1, 2, 3, 77, u32::MAX] {
                device.write(register::QUEUE_NOTIFY, queue);
            }
            assert!(device.negotiate(feature::VERSION_1));
            device.queue_unannounced(0).kick();
            device.driver_ok();
            for queue in [0, 1, 2, 3, 77, u32::MAX] {
                device.write(register::QUEUE_NOTIFY, queue);
            }
            device.write(register::STATUS, 0);
        }
    });
}

#[test]
fn status_written_in_any_order() {
    with_devices(|puppet| {
        for (id, _) in QUEUES {
            let device = Device::find(puppet, id);
            for value in
                [0, status::DRIVER_OK, status::FEATURES_OK, 0xff, status::NEEDS_RESET, u32::MAX, status::FAILED, 0]
            {
                device.write(register::STATUS, value);
                device.write(register::QUEUE_NOTIFY, 0);
            }
            assert_eq!(device.status(), 0);
        }
    });
}

#[test]
fn registers_in_every_size_and_place() {
    /// Reads and writes of 1, 2, 4 and 8 bytes at `(%rdx)`, from and to `rax`.
    const ACCESSES: [&[u8]; 8] = [
        &[0x8a, 0x02],
        &[0x66, 0x8b, 0x02],
        &[0x8b, 0x02],
        &[0x48, 0x8b, 0x02],
        &[0x88, 0x02],
        &[0x66, 0x89, 0x02],
        &[0x89, 0x02],
        &[0x48, 0x89, 0x02],
    ];
    with_devices(|puppet| {
        for (id, _) in QUEUES {
            let base = Device::find(puppet, id).base();
            let mut code = Vec::new();
            for offset in (0..0x100).chain([0x100, 0x101, 0x107, 0x108, 0x1ff, 0xff8, 0xffc, 0xffe, 0xfff]) {
                code.extend([0x48, 0xba]); // movabs $address, %rdx
                code.extend(u64::to_le_bytes(base + offset));
                for access in ACCESSES {
                    code.extend([0x48, 0xb8]); // movabs $value, %rax
                    code.extend(u64::to_le_bytes(0x5aa5_0102_8000_ff5a));
                    code.extend(access);
                }
            }
            code.push(0xc3); // ret
            puppet.call(&code, 0);
            Device::find(puppet, id).write(register::STATUS, 0);
        }
    });
}

#[test]
fn a_reset_in_the_middle_of_work() {
    with_devices(|puppet| {
        for _ in 0..50 {
            let mut block = Block::open(puppet, Device::find(puppet, BLOCK), 0);
            let at = block.queue.buffers() + 0x1000;
            for _ in 0..8 {
                block.submit(0, 0, &[(at, 0x4000, flag::WRITE)]);
                block.queue.kick();
            }
            block.device.write(register::STATUS, 0);
        }
    });
}
