//! A driver for virtio-mmio devices (virtio 1.2, section 4.2) that can also do everything a driver must not.
//!
//! Queues and buffers are written to guest memory from outside; only register accesses go through the guest.

use crate::puppet::Puppet;
use crate::wait_for;

/// Guest address of the first device; each has a page. The page before it is the boot timer's.
pub const FIRST_DEVICE: u64 = 0xc000_1000;
/// Distance between devices.
pub const DEVICE_PAGE: u64 = 0x1000;

/// Register offsets, section 4.2.2.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC: u64 = 0x080;
    pub const QUEUE_DRIVER: u64 = 0x090;
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Bits of the status register, section 2.1.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// Feature bits of every device, section 6.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod feature {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
}

/// Flags of a descriptor, section 2.7.5.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod flag {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}

/// Size of the queues that the driver makes.
pub const QUEUE_SIZE: u16 = 16;

/// Where queues and buffers go: far above the guest's own code. Each queue has 64 KiB there, its buffers included.
const QUEUES: u64 = 0x100_0000;
const QUEUE_SPACE: u64 = 0x1_0000;
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x3000;

/// A descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length.
    pub length: u32,
    /// See [`flag`].
    pub flags: u16,
    /// Index of the next one, with [`flag::NEXT`].
    pub next: u16,
}

/// A buffer of a chain: address, length, and [`flag::WRITE`] or 0.
pub type Buffer = (u64, u32, u16);

/// An entry of the used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Index of the first descriptor of the chain.
    pub head: u32,
    /// How many bytes the device wrote.
    pub written: u32,
}

/// A device, seen through the puppet.
#[derive(Debug)]
pub struct Device<'a> {
    puppet: &'a Puppet,
    base: u64,
}

/// A queue of a device.
#[derive(Debug)]
pub struct Queue<'a> {
    puppet: &'a Puppet,
    notify: u64,
    index: u32,
    base: u64,
    /// Free-running, as in the ring itself.
    submitted: u16,
    seen: u16,
}

/// A queue without its guest.
#[derive(Debug, Clone, Copy)]
pub struct QueuePlace {
    notify: u64,
    index: u32,
    base: u64,
    submitted: u16,
    seen: u16,
}

impl QueuePlace {
    /// The queue in a copy of its guest.
    pub fn of(self, puppet: &Puppet) -> Queue<'_> {
        let Self { notify, index, base, submitted, seen } = self;
        Queue { puppet, notify, index, base, submitted, seen }
    }
}

impl<'a> Device<'a> {
    /// Finds the device with this id (section 5), or panics.
    pub fn find(puppet: &'a Puppet, id: u32) -> Self {
        Self::find_all(puppet, id)
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("there is no virtio device with id {id}"))
    }

    /// Finds every device with this id, in the order of their addresses.
    pub fn find_all(puppet: &'a Puppet, id: u32) -> Vec<Self> {
        (FIRST_DEVICE..)
            .step_by(DEVICE_PAGE as usize)
            .map(|base| Self { puppet, base })
            .take_while(|device| device.read(register::MAGIC) == u32::from_le_bytes(*b"virt"))
            .filter(|device| device.read(register::DEVICE_ID) == id)
            .collect()
    }

    /// Reads a register.
    pub fn read(&self, register: u64) -> u32 {
        self.puppet.read_32(self.base + register)
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        self.puppet.write_32(self.base + register, value);
    }

    /// Guest address of the device's registers.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The features that the device offers.
    pub fn features(&self) -> u64 {
        self.write(register::DEVICE_FEATURES_SEL, 1);
        let high = u64::from(self.read(register::DEVICE_FEATURES)) << 32;
        self.write(register::DEVICE_FEATURES_SEL, 0);
        high | u64::from(self.read(register::DEVICE_FEATURES))
    }

    /// Resets the device and offers it these features; tells whether it took them.
    pub fn negotiate(&self, features: u64) -> bool {
        self.write(register::STATUS, 0);
        assert_eq!(self.status(), 0, "a device that was reset has no status");
        self.write(register::STATUS, status::ACKNOWLEDGE);
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(register::DRIVER_FEATURES_SEL, select);
            self.write(register::DRIVER_FEATURES, half);
        }
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    /// Makes a queue of [`QUEUE_SIZE`] in guest memory, and tells the device where it is.
    pub fn queue(&self, index: u32) -> Queue<'a> {
        let queue = self.queue_unannounced(index);
        self.announce(index, QUEUE_SIZE.into(), queue.base + DESCRIPTORS, queue.base + AVAILABLE, queue.base + USED);
        queue
    }

    /// Makes a queue in guest memory, and doesn't tell the device.
    pub fn queue_unannounced(&self, index: u32) -> Queue<'a> {
        let slot = (self.base - FIRST_DEVICE) / DEVICE_PAGE * 4 + u64::from(index);
        let base = QUEUES + slot * QUEUE_SPACE;
        self.puppet.memory().write(base, &[0; BUFFERS as usize]);
        Queue { puppet: self.puppet, notify: self.base + register::QUEUE_NOTIFY, index, base, submitted: 0, seen: 0 }
    }

    /// Tells the device about a queue, whatever sense that makes.
    pub fn announce(&self, index: u32, size: u32, descriptors: u64, available: u64, used: u64) {
        self.write(register::QUEUE_SEL, index);
        self.write(register::QUEUE_NUM, size);
        for (register, address) in
            [(register::QUEUE_DESC, descriptors), (register::QUEUE_DRIVER, available), (register::QUEUE_DEVICE, used)]
        {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
    }

    /// Tells the device that the driver is ready.
    pub fn driver_ok(&self) {
        self.write(register::STATUS, self.status() | status::DRIVER_OK);
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.read(register::STATUS)
    }

    /// Waits until the device asks to be reset.
    pub fn wait_needs_reset(&self) {
        wait_for("the device to need a reset", || (self.status() & status::NEEDS_RESET != 0).then_some(()));
    }

    /// Reads and acknowledges the interrupt status.
    pub fn take_interrupts(&self) -> u32 {
        let pending = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, pending);
        pending
    }
}

impl Queue<'_> {
    /// Where it is and how far it got, for a copy of the guest.
    pub fn place(&self) -> QueuePlace {
        let Queue { notify, index, base, submitted, seen, .. } = *self;
        QueuePlace { notify, index, base, submitted, seen }
    }

    /// Guest address of the queue's own buffer space, of about 48 KiB.
    pub fn buffers(&self) -> u64 {
        self.base + BUFFERS
    }

    /// Writes a descriptor into the table.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let bytes = descriptor.bytes();
        self.puppet.memory().write(self.base + DESCRIPTORS + u64::from(index) * 16, &bytes);
    }

    /// Writes a chain into the table from its first entry on, makes it available, and returns.
    pub fn submit(&mut self, chain: &[Buffer]) {
        for (index, (address, length, flags)) in (0..).zip(chain) {
            let last = usize::from(index) + 1 == chain.len();
            let flags = flags | if last { 0 } else { flag::NEXT };
            let next = if last { 0 } else { index + 1 };
            self.set_descriptor(index, Descriptor { address: *address, length: *length, flags, next });
        }
        self.make_available(0);
    }

    /// Puts the head of a chain into the available ring.
    pub fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.submitted % QUEUE_SIZE);
        self.puppet.memory().write(self.base + AVAILABLE + 4 + slot * 2, &head.to_le_bytes());
        self.submitted = self.submitted.wrapping_add(1);
        self.set_available_index(self.submitted);
    }

    /// Writes the index of the available ring, whatever sense that makes.
    pub fn set_available_index(&self, index: u16) {
        self.puppet.memory().write(self.base + AVAILABLE + 2, &index.to_le_bytes());
    }

    /// Asks not to be interrupted before this index of the used ring (with [`feature::EVENT_IDX`]).
    pub fn set_used_event(&self, index: u16) {
        let used_event = self.base + AVAILABLE + 4 + u64::from(QUEUE_SIZE) * 2;
        self.puppet.memory().write(used_event, &index.to_le_bytes());
    }

    /// The index of the available ring at which the device wants to be notified (with [`feature::EVENT_IDX`]).
    pub fn available_event(&self) -> u16 {
        self.puppet.memory().read_u16(self.base + USED + 4 + u64::from(QUEUE_SIZE) * 8)
    }

    /// Notifies the device.
    pub fn kick(&self) {
        self.puppet.write_32(self.notify, self.index);
    }

    /// The next entry of the used ring, if there is one.
    pub fn take_used(&mut self) -> Option<Used> {
        let memory = self.puppet.memory();
        if memory.read_u16(self.base + USED + 2) == self.seen {
            return None;
        }
        let entry = self.base + USED + 4 + u64::from(self.seen % QUEUE_SIZE) * 8;
        self.seen = self.seen.wrapping_add(1);
        Some(Used { head: memory.read_u32(entry), written: memory.read_u32(entry + 4) })
    }

    /// Waits for the next entry of the used ring.
    pub fn wait_used(&mut self) -> Used {
        wait_for("the device to use a buffer", || self.take_used())
    }
}

impl Descriptor {
    /// As it is in the table.
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}
