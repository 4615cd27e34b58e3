//! The device with a driver's memory behind it, and with a driver that makes no sense.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::virtio::core::QueueLayout;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const SECTORS: u64 = 8;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const HEADER: u64 = 0x5000;
const DATA: u64 = 0x6000;
const STATUS: u64 = 0x8000;
const MEMORY_BYTES: usize = 0x10000;

struct Fixture {
    memory: Arc<GuestMemoryMmap>,
    device: Block,
    file: File,
    offered: u16,
}

impl Fixture {
    /// A disk of eight sectors, each filled with its number.
    fn new(access: Access) -> Self {
        let file = tempfile::tempfile().unwrap();
        for sector in 0..SECTORS {
            file.write_all_at(&[sector as u8; 512], sector * 512).unwrap();
        }
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap());
        let config = BlockConfig {
            file: file.try_clone().unwrap(),
            access,
            cache_type: CacheType::Writeback,
            discard: Discard::Offered,
            limiter: None,
        };
        let mut device = Block::new(memory.clone(), config).unwrap();
        let layout =
            QueueLayout { size: QUEUE_SIZE, ready: true, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
        let features = device.features();
        device.core_mut().activate(features, &[layout]).unwrap();
        Self { memory, device, file, offered: 0 }
    }

    /// Makes the chain that begins with descriptor 0 available, and has the device look.
    fn offer(&mut self, descriptors: &[(u64, u32, u16, u16)]) {
        for (index, &(address, length, flags, next)) in (0..).zip(descriptors) {
            let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
            self.memory.write_obj([address, rest], GuestAddress(DESCRIPTORS + 16 * index)).unwrap();
        }
        let slot = AVAILABLE + 4 + 2 * u64::from(self.offered % QUEUE_SIZE);
        self.memory.write_obj(0_u16, GuestAddress(slot)).unwrap();
        self.offered = self.offered.wrapping_add(1);
        self.memory.write_obj(self.offered, GuestAddress(AVAILABLE + 2)).unwrap();
        self.device.serve();
    }

    /// A request as a driver makes it: header, data, status. Returns the status.
    fn request(&mut self, kind: u32, sector: u64, bytes: u32) -> u8 {
        let next = VRING_DESC_F_NEXT as u16;
        let writable = VRING_DESC_F_WRITE as u16;
        let direction = if matches!(kind, READ | GET_ID) { writable } else { 0 };
        self.memory.write_obj([u64::from(kind), sector], GuestAddress(HEADER)).unwrap();
        self.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        match bytes {
            0 => self.offer(&[(HEADER, 16, next, 1), (STATUS, 1, writable, 0)]),
            _ => self.offer(&[(HEADER, 16, next, 1), (DATA, bytes, next | direction, 2), (STATUS, 1, writable, 0)]),
        }
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn data(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    }

    fn disk(&self) -> Vec<u8> {
        let mut bytes = vec![0; SECTORS as usize * 512];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut fixture = Fixture::new(Access::ReadWrite);
    assert_eq!(fixture.request(READ, 2, 1024), OK);
    assert_eq!(fixture.data(1024), [[2; 512], [3; 512]].concat());
    fixture.memory.write_slice(&[0xab; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(fixture.request(WRITE, 5, 512), OK);
    assert_eq!(fixture.request(FLUSH, 0, 0), OK);
    let disk = fixture.disk();
    assert_eq!((&disk[5 * 512..6 * 512], disk[6 * 512]), (&[0xab; 512][..], 6));
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let mut fixture = Fixture::new(Access::ReadOnly);
    let before = fixture.disk();
    assert_ne!(fixture.request(WRITE, 0, 512), OK);
    assert_ne!(fixture.request(WRITE_ZEROES, 0, 16), OK);
    assert_eq!(fixture.request(READ, 7, 512), OK);
    assert_eq!(fixture.disk(), before);
}

#[test]
fn nothing_lies_beyond_the_last_sector() {
    let mut fixture = Fixture::new(Access::ReadWrite);
    let before = fixture.disk();
    for (sector, bytes) in [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511)] {
        assert_eq!(fixture.request(READ, sector, bytes), IOERR, "{sector} {bytes}");
        assert_eq!(fixture.request(WRITE, sector, bytes), IOERR, "{sector} {bytes}");
    }
    assert_eq!(fixture.disk(), before);
    assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn the_identifier_fits_and_unknown_requests_are_unsupported() {
    let mut fixture = Fixture::new(Access::ReadWrite);
    assert_eq!(fixture.request(GET_ID, 0, 20), OK);
    assert!(fixture.data(20).iter().any(|byte| *byte != 0));
    assert_eq!(fixture.request(77, 0, 512), UNSUPPORTED);
}

#[test]
fn a_chain_without_room_for_a_status_stops_the_device() {
    let mut fixture = Fixture::new(Access::ReadWrite);
    fixture.memory.write_obj([u64::from(READ), 0], GuestAddress(HEADER)).unwrap();
    fixture.offer(&[(HEADER, 16, 0, 0)]);
    assert!(!fixture.device.core().is_active());
    assert!(fixture.device.core().interrupt().needs_reset());
    assert_eq!(fixture.device.core().faults().needs_reset.get(), 1);
}

/// Addresses on, at and beyond the edges of memory; lengths likewise.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        Just(HEADER),
        Just(DATA),
        Just(STATUS),
        Just(DESCRIPTORS),
        Just(USED),
        MEMORY_BYTES as u64 - 8..MEMORY_BYTES as u64 + 8,
        any::<u64>()
    ];
    let length = prop_oneof![Just(16), Just(512), Just(1), Just(0), Just(u32::MAX), 0..4096_u32];
    (address, length, 0..8_u16, 0..6_u16)
}

proptest! {
    /// Whatever a driver offers, the device comes back, writes nothing behind the disk's end, and goes on after a reset.
    #[test]
    fn no_driver_gets_the_better_of_it(
        header in (0..16_u32, prop_oneof![0..10_u64, any::<u64>()]),
        chains in prop::collection::vec(prop::collection::vec(descriptor(), 1..6), 1..6),
        index in prop_oneof![Just(None), any::<u16>().prop_map(Some)],
    ) {
        let mut fixture = Fixture::new(Access::ReadWrite);
        fixture.memory.write_obj([u64::from(header.0), header.1], GuestAddress(HEADER)).unwrap();
        for chain in &chains {
            fixture.offer(chain);
        }
        if let Some(index) = index {
            fixture.memory.write_obj(index, GuestAddress(AVAILABLE + 2)).unwrap();
            fixture.device.serve();
        }
        prop_assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
        let core = fixture.device.core();
        prop_assert_eq!(core.is_active(), core.faults().needs_reset.get() == 0);

        fixture.device.core_mut().reset();
        let layout =
            QueueLayout { size: 4, ready: true, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
        fixture.memory.write_obj([0_u16; 2], GuestAddress(AVAILABLE)).unwrap();
        let features = fixture.device.features();
        fixture.device.core_mut().activate(features, &[layout]).unwrap();
        fixture.offered = 0;
        prop_assert_eq!(fixture.request(READ, 1, 512), OK);
    }
}
