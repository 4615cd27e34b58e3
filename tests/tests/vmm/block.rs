//! The block device, with a driver in the test.

use serde_json::{Value, json};
use stockade_tests::guest::Protocol;
use stockade_tests::puppet::Puppet;
use stockade_tests::virtio::{Buffer, Device, Queue, feature, flag, register};
use stockade_tests::{Need, Scratch, test};

/// Device id of a block device, virtio 1.2, section 5.
pub const BLOCK: u32 = 2;
/// Bytes in a sector.
pub const SECTOR: usize = 512;

const RO: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_REQUEST: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD_REQUEST: u32 = 11;
const WRITE_ZEROES_REQUEST: u32 = 13;

const OK: u8 = 0;
/// The status of a request that failed.
pub const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A status that no device writes.
const NOT_WRITTEN: u8 = 0xee;

/// A block driver with one request at a time.
pub struct Block<'a> {
    pub device: Device<'a>,
    pub queue: Queue<'a>,
    puppet: &'a Puppet,
}

impl<'a> Block<'a> {
    /// Sets the device up with these features.
    pub fn open(puppet: &'a Puppet, device: Device<'a>, features: u64) -> Self {
        assert!(device.negotiate(features | feature::VERSION_1), "the device refuses features {features:#x}");
        let queue = device.queue(0);
        device.driver_ok();
        Self { device, queue, puppet }
    }

    /// Goes on with a device that a copy of the guest has set up.
    pub fn resumed(puppet: &'a Puppet, device: Device<'a>, queue: Queue<'a>) -> Self {
        Self { device, queue, puppet }
    }

    fn header(&self) -> u64 {
        self.queue.buffers()
    }

    fn status(&self) -> u64 {
        self.queue.buffers() + 0x100
    }

    fn data(&self) -> u64 {
        self.queue.buffers() + 0x200
    }

    /// Sends a request with these data buffers, and returns its status and what the device says it wrote.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.submit(kind, sector, data);
        self.queue.kick();
        let used = self.queue.wait_used();
        (self.puppet.memory().read_array::<1>(self.status())[0], used.written)
    }

    pub fn submit(&mut self, kind: u32, sector: u64, data: &[Buffer]) {
        let header = [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat();
        self.puppet.memory().write(self.header(), &header);
        self.puppet.memory().write(self.status(), &[NOT_WRITTEN]);
        let mut chain = vec![(self.header(), 16, 0)];
        chain.extend_from_slice(data);
        chain.push((self.status(), 1, flag::WRITE));
        self.queue.submit(&chain);
    }

    pub fn read(&mut self, sector: u64, length: usize) -> Vec<u8> {
        let at = self.data();
        self.puppet.memory().write(at, &vec![0xaa; length]);
        let (status, written) = self.request(IN, sector, &[(at, length as u32, flag::WRITE)]);
        assert_eq!((status, written as usize), (OK, length + 1));
        let mut bytes = vec![0; length];
        self.puppet.memory().read(at, &mut bytes);
        bytes
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        let at = self.data();
        self.puppet.memory().write(at, bytes);
        self.request(OUT, sector, &[(at, bytes.len() as u32, 0)]).0
    }

    /// A discard or write-zeroes request of one segment.
    fn clear(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let segment = [sector.to_le_bytes().as_slice(), &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        let at = self.data();
        self.puppet.memory().write(at, &segment);
        self.request(kind, 0, &[(at, 16, 0)]).0
    }
}

/// Content that is different in every sector.
pub fn pattern(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR).map(|index| (index / SECTOR * 31 + index % 251) as u8).collect()
}

fn start(scratch: &Scratch, content: &[u8], extra: Value) -> (Puppet, std::path::PathBuf) {
    let disk = scratch.file("disk", content);
    let mut drive = json!({ "drive_id": "disk", "path_on_host": disk, "is_root_device": false });
    drive.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    (Puppet::start_with(scratch, Protocol::Pvh, |vmm| vmm.put("/drives/disk", &drive)), disk)
}

fn with_disk(extra: Value, body: impl FnOnce(&Puppet, &std::path::Path)) {
    test(&[Need::Kvm], |scratch| {
        let (puppet, disk) = start(scratch, &pattern(64), extra);
        body(&puppet, &disk);
    });
}

fn open(puppet: &Puppet, features: u64) -> Block<'_> {
    Block::open(puppet, Device::find(puppet, BLOCK), features)
}

#[test]
fn registers_are_as_specified() {
    with_disk(json!({}), |puppet, _| {
        let device = Device::find(puppet, BLOCK);
        assert_eq!(device.read(register::VERSION), 2);
        assert_eq!(device.read(register::CONFIG), 64, "capacity in sectors");
        assert_eq!(device.read(register::CONFIG + 4), 0);
        assert_eq!(puppet.read_8(device.base() + register::CONFIG), 64, "the configuration space is read in any size");
        assert_ne!(device.features() & feature::VERSION_1, 0);
        assert_ne!(device.features() & feature::EVENT_IDX, 0);
        device.write(register::QUEUE_SEL, 0);
        assert_eq!(device.read(register::QUEUE_NUM_MAX), 256);
        device.write(register::QUEUE_SEL, 1);
        assert_eq!(device.read(register::QUEUE_NUM_MAX), 0, "there is one queue");
    });
}

#[test]
fn reads_and_writes_reach_the_file() {
    with_disk(json!({}), |puppet, disk| {
        let mut block = open(puppet, 0);
        assert!(block.read(0, 8 * SECTOR) == pattern(64)[..8 * SECTOR]);
        assert!(block.read(63, SECTOR) == pattern(64)[63 * SECTOR..]);
        assert_eq!(block.write(5, &[0x11; 2 * SECTOR]), OK);
        assert!(block.read(4, 4 * SECTOR)[SECTOR..3 * SECTOR] == [0x11; 2 * SECTOR]);
        let file = std::fs::read(disk).unwrap();
        assert!(file[5 * SECTOR..7 * SECTOR] == [0x11; 2 * SECTOR]);
        assert!(file[7 * SECTOR..] == pattern(64)[7 * SECTOR..]);
        assert_ne!(block.device.take_interrupts() & 1, 0, "the device interrupted");
        // More requests than the queue has entries.
        for round in 0..40 {
            assert!(block.read(round, SECTOR)[0] == block.read(round, SECTOR)[0]);
        }
    });
}

#[test]
fn data_may_be_scattered() {
    with_disk(json!({}), |puppet, _| {
        let mut block = open(puppet, 0);
        let at = block.data();
        let buffers = [(at, 100, flag::WRITE), (at + 0x1000, 412, flag::WRITE), (at + 0x2000, 512, flag::WRITE)];
        assert_eq!(block.request(IN, 10, &buffers), (OK, 1025));
        let mut bytes = vec![0; 1024];
        puppet.memory().read(at, &mut bytes[..100]);
        puppet.memory().read(at + 0x1000, &mut bytes[100..512]);
        puppet.memory().read(at + 0x2000, &mut bytes[512..]);
        assert!(bytes == pattern(64)[10 * SECTOR..12 * SECTOR]);
    });
}

#[test]
fn several_requests_can_be_under_way() {
    with_disk(json!({}), |puppet, _| {
        let mut block = open(puppet, 0);
        let (header, status, data) = (block.header(), block.status(), block.data());
        // Four chains of three descriptors each, with headers, data and status bytes of their own.
        for request in 0..4_u64 {
            let header = header + request * 16;
            puppet.memory().write(header, &[[0; 8], (request * 10).to_le_bytes()].concat());
            for (index, (address, length, flags, next)) in [
                (header, 16, flag::NEXT, 1),
                (data + request * 512, 512, flag::NEXT | flag::WRITE, 2),
                (status + request, 1, flag::WRITE, 0),
            ]
            .into_iter()
            .enumerate()
            {
                let first = request as u16 * 3;
                let descriptor = stockade_tests::virtio::Descriptor { address, length, flags, next: first + next };
                block.queue.set_descriptor(first + index as u16, descriptor);
            }
            block.queue.make_available(request as u16 * 3);
        }
        block.queue.kick();
        let mut heads: Vec<_> = (0..4).map(|_| block.queue.wait_used().head).collect();
        heads.sort_unstable();
        assert_eq!(heads, [0, 3, 6, 9]);
        for request in 0..4 {
            let mut bytes = vec![0; SECTOR];
            puppet.memory().read(data + request * 512, &mut bytes);
            assert!(bytes == pattern(64)[request as usize * 10 * SECTOR..][..SECTOR], "request {request}");
        }
    });
}

#[test]
fn flush_is_offered_for_write_back_only() {
    with_disk(json!({ "cache_type": "Writeback" }), |puppet, _| {
        assert_ne!(Device::find(puppet, BLOCK).features() & FLUSH, 0);
        let mut block = open(puppet, FLUSH);
        assert_eq!(block.write(0, &[1; SECTOR]), OK);
        assert_eq!(block.request(FLUSH_REQUEST, 0, &[]).0, OK);
    });
    with_disk(json!({}), |puppet, _| {
        assert_eq!(Device::find(puppet, BLOCK).features() & FLUSH, 0);
    });
}

#[test]
fn the_device_has_an_identity() {
    with_disk(json!({}), |puppet, _| {
        let mut block = open(puppet, 0);
        let at = block.data();
        let (status, written) = block.request(GET_ID, 0, &[(at, 20, flag::WRITE)]);
        assert_eq!((status, written), (OK, 21));
        assert!(puppet.memory().read_array::<20>(at)[0].is_ascii_alphanumeric());
    });
}

#[test]
fn unknown_requests_are_unsupported() {
    with_disk(json!({}), |puppet, _| {
        let mut block = open(puppet, 0);
        let at = block.data();
        assert_eq!(block.request(99, 0, &[(at, 512, flag::WRITE)]).0, UNSUPPORTED);
        assert!(block.read(0, SECTOR) == pattern(1));
    });
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    with_disk(json!({ "is_read_only": true }), |puppet, disk| {
        let device = Device::find(puppet, BLOCK);
        assert_ne!(device.features() & RO, 0);
        assert_eq!(device.features() & (DISCARD | WRITE_ZEROES), 0);
        let mut block = Block::open(puppet, device, RO);
        assert!(block.read(3, SECTOR) == pattern(64)[3 * SECTOR..4 * SECTOR]);
        assert_eq!(block.write(3, &[0; SECTOR]), IO_ERROR);
        assert!(std::fs::read(disk).unwrap() == pattern(64));
    });
}

#[test]
fn ranges_can_be_discarded_and_zeroed() {
    with_disk(json!({}), |puppet, disk| {
        let offered = Device::find(puppet, BLOCK).features();
        assert_ne!(offered & DISCARD, 0);
        assert_ne!(offered & WRITE_ZEROES, 0);
        let mut block = open(puppet, DISCARD | WRITE_ZEROES);
        assert_eq!(block.clear(WRITE_ZEROES_REQUEST, 8, 8, 0), OK);
        assert_eq!(block.clear(DISCARD_REQUEST, 32, 8, 0), OK);
        let file = std::fs::read(disk).unwrap();
        assert_eq!(file.len(), 64 * SECTOR, "the disk keeps its size");
        assert!(file[8 * SECTOR..16 * SECTOR].iter().all(|byte| *byte == 0));
        assert!(file[..8 * SECTOR] == pattern(64)[..8 * SECTOR]);
        assert!(file[16 * SECTOR..32 * SECTOR] == pattern(64)[16 * SECTOR..32 * SECTOR]);
        assert!(file[40 * SECTOR..] == pattern(64)[40 * SECTOR..]);

        assert_eq!(block.clear(DISCARD_REQUEST, 0, 1, 1), UNSUPPORTED, "unmap is no flag of discard");
        assert_eq!(block.clear(WRITE_ZEROES_REQUEST, 0, 1, 0x8000), UNSUPPORTED, "unknown flags");
        assert!(std::fs::read(disk).unwrap()[..8 * SECTOR] == pattern(64)[..8 * SECTOR]);
    });
}

#[test]
fn a_disk_that_was_handed_over_is_as_any() {
    test(&[Need::Kvm], |scratch| {
        let path = scratch.file("disk", pattern(64));
        let disk = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let puppet = Puppet::start_sealed(scratch, [("disk", disk.into())], |vmm| {
            let drive = json!({ "drive_id": "disk", "path_on_host": "fd:disk", "is_root_device": false, "cache_type": "Writeback" });
            vmm.put("/drives/disk", &drive);
        });
        let mut block = open(&puppet, FLUSH | DISCARD | WRITE_ZEROES);
        assert!(block.read(63, SECTOR) == pattern(64)[63 * SECTOR..]);
        assert_eq!(block.write(5, &[0x11; SECTOR]), OK);
        assert_eq!(block.clear(WRITE_ZEROES_REQUEST, 8, 8, 0), OK);
        assert_eq!(block.clear(DISCARD_REQUEST, 32, 8, 0), OK);
        assert_eq!(block.request(FLUSH_REQUEST, 0, &[]).0, OK);
        let file = std::fs::read(path).unwrap();
        assert!(file[5 * SECTOR..6 * SECTOR] == [0x11; SECTOR]);
        assert!(file[8 * SECTOR..16 * SECTOR].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn sectors_outside_the_disk_are_not_touched() {
    with_disk(json!({}), |puppet, disk| {
        for (sector, length) in
            [(64, SECTOR), (63, 2 * SECTOR), (u64::MAX, SECTOR), (u64::MAX / 512, SECTOR), (1 << 55, SECTOR)]
        {
            for kind in [IN, OUT] {
                let mut block = open(puppet, DISCARD | WRITE_ZEROES);
                let at = block.data();
                let direction = if kind == IN { flag::WRITE } else { 0 };
                block.submit(kind, sector, &[(at, length as u32, direction)]);
                expect_failure(&mut block, puppet);
            }
        }
        for (sector, sectors) in [(64, 1), (0, 65), (63, 2), (u64::MAX, 1), (1, u32::MAX)] {
            for kind in [DISCARD_REQUEST, WRITE_ZEROES_REQUEST] {
                let mut block = open(puppet, DISCARD | WRITE_ZEROES);
                let at = block.data();
                let segment = [u64::to_le_bytes(sector).as_slice(), &u32::to_le_bytes(sectors), &[0; 4]].concat();
                puppet.memory().write(at, &segment);
                block.submit(kind, 0, &[(at, 16, 0)]);
                expect_failure(&mut block, puppet);
            }
        }
        assert!(std::fs::read(disk).unwrap() == pattern(64));
    });
}

/// A request that must fail: by its status, or by a device that needs a reset.
fn expect_failure(block: &mut Block<'_>, puppet: &Puppet) {
    use stockade_tests::virtio::status::NEEDS_RESET;
    block.queue.kick();
    stockade_tests::wait_for("the request to fail", || {
        let needs_reset = block.device.status() & NEEDS_RESET != 0;
        let status = puppet.memory().read_array::<1>(block.status())[0];
        assert_ne!(status, OK);
        (needs_reset || status == IO_ERROR).then_some(())
    });
}

#[test]
fn interrupts_come_when_they_are_asked_for() {
    with_disk(json!({}), |puppet, _| {
        let mut block = open(puppet, feature::EVENT_IDX);
        block.device.take_interrupts();
        // Only when the third request is done.
        block.queue.set_used_event(2);
        for request in 0..3 {
            block.read(0, SECTOR);
            let interrupted = || block.device.read(register::INTERRUPT_STATUS) & 1 != 0;
            if request < 2 {
                assert!(!interrupted(), "request {request}");
            } else {
                stockade_tests::wait_for("the interrupt", || interrupted().then_some(()));
            }
        }
        stockade_tests::wait_for("the device to ask for the next notification", || {
            (block.queue.available_event() == 3).then_some(())
        });
    });
}

#[test]
fn root_comes_first_and_others_in_their_order() {
    test(&[Need::Kvm], |scratch| {
        let sizes = [("first", 8, false), ("root", 16, true), ("last", 24, false)];
        let puppet = Puppet::start_with(scratch, Protocol::Pvh, |vmm| {
            for (id, sectors, root) in sizes {
                let disk = scratch.file(id, pattern(sectors));
                vmm.put(
                    &format!("/drives/{id}"),
                    &json!({ "drive_id": id, "path_on_host": disk, "is_root_device": root }),
                );
            }
        });
        let capacities: Vec<_> =
            Device::find_all(&puppet, BLOCK).iter().map(|device| device.read(register::CONFIG)).collect();
        assert_eq!(capacities, [16, 8, 24]);
        for device in Device::find_all(&puppet, BLOCK) {
            assert!(Block::open(&puppet, device, 0).read(0, SECTOR) == pattern(1));
        }
    });
}
