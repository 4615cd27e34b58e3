//! A guest: rings, buffers, and the event loop that runs the device.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

use event_manager::{EventManager, SubscriberId, SubscriberOps};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

use crate::lock;
use crate::virtio::VirtioDevice;
use crate::virtio::core::QueueLayout;
use crate::virtio::vsock::packet::{HEADER_SIZE, HOST_CID, Header, TYPE_STREAM};
use crate::virtio::vsock::{HostEndpoint, Vsock};

pub const GUEST_CID: u32 = 52;
/// The guest's receive buffer for each connection.
pub const GUEST_BUFFER: u32 = 128 * 1024;
pub const QUEUE_SIZE: u16 = 256;

const RX: usize = 0;
const TX: usize = 1;
const RX_BUFFERS: u64 = 0x10_0000;
const RX_BUFFER_SIZE: u64 = 0x1000;
const TX_BUFFERS: u64 = 0x40_0000;
const TX_BUFFER_SIZE: u64 = 0x1_1000;
const MEMORY_SIZE: usize = 0x200_0000;

/// A descriptor: address, length, and whether the device writes to it.
pub type Buffer = (u64, u32, bool);

/// The driver's side of a queue. Chain number n starts at descriptor 8n.
pub struct Ring {
    base: u64,
    available: u16,
    seen: u16,
}

impl Ring {
    const CHAIN: u16 = 8;

    fn layout(&self) -> QueueLayout {
        QueueLayout {
            size: QUEUE_SIZE,
            ready: true,
            descriptors: self.base,
            available: self.base + 0x2000,
            used: self.base + 0x4000,
        }
    }

    /// Writes descriptors from `head` on, and makes them available.
    pub fn offer(&mut self, memory: &GuestMemoryMmap, head: u16, chain: &[Buffer]) {
        for (position, (address, length, writable)) in chain.iter().enumerate() {
            let index = head + position as u16;
            let more = position + 1 < chain.len();
            let flags = if *writable { VRING_DESC_F_WRITE } else { 0 } | if more { VRING_DESC_F_NEXT } else { 0 };
            let slot = GuestAddress(self.base + 16 * u64::from(index));
            let high = (flags as u64) << 32 | u64::from(index + 1) << 48;
            memory.write_obj([*address, u64::from(*length) | high], slot).unwrap();
        }
        let slot = self.layout().available + 4 + 2 * u64::from(self.available % QUEUE_SIZE);
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_index(memory, self.available);
    }

    /// Moves the available index.
    pub fn set_index(&self, memory: &GuestMemoryMmap, index: u16) {
        memory.write_obj(index, GuestAddress(self.layout().available + 2)).unwrap();
    }

    /// The next chain that the device gave back: its head, and the bytes that were written to it.
    pub fn take_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let used = self.layout().used;
        let index: u16 = memory.read_obj(GuestAddress(used + 2)).unwrap();
        if index == self.seen {
            return None;
        }
        let slot = used + 4 + 8 * u64::from(self.seen % QUEUE_SIZE);
        self.seen = self.seen.wrapping_add(1);
        // Wants an interrupt for the next one.
        memory.write_obj(self.seen, GuestAddress(self.layout().available + 4 + 2 * u64::from(QUEUE_SIZE))).unwrap();
        let [head, length]: [u32; 2] = memory.read_obj(GuestAddress(slot)).unwrap();
        Some((head as u16, length))
    }
}

/// A guest and its device.
pub struct Guest {
    pub memory: Arc<GuestMemoryMmap>,
    pub device: Arc<Mutex<Vsock>>,
    pub rings: [Ring; 3],
    events: EventManager<Arc<Mutex<Vsock>>>,
    subscriber: SubscriberId,
    free_tx: Vec<u16>,
    received: VecDeque<(Header, Vec<u8>)>,
}

impl Guest {
    /// A guest whose driver is up, without a buffer in the receive queue.
    pub fn without_buffers(host: HostEndpoint) -> Self {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)]).unwrap());
        let device = Arc::new(Mutex::new(Vsock::new(memory.clone(), GUEST_CID, host).unwrap()));
        let mut events = EventManager::new().unwrap();
        let subscriber = events.add_subscriber(device.clone());
        let rings = Self::fresh_rings();
        let mut guest =
            Self { memory, device, rings, events, subscriber, free_tx: Vec::new(), received: VecDeque::new() };
        guest.activate();
        guest
    }

    /// A guest with all its receive buffers in the queue.
    pub fn new(host: HostEndpoint) -> Self {
        let mut guest = Self::without_buffers(host);
        guest.offer_rx_buffers(QUEUE_SIZE);
        guest
    }

    /// A guest that may connect to host ports 1, 2, ..., and the host's ends of these.
    pub fn with_ports(count: u32) -> (Self, Vec<UnixStream>) {
        let (host, peers) = ports(count);
        (Self::new(host), peers)
    }

    fn fresh_rings() -> [Ring; 3] {
        [0x1_0000, 0x2_0000, 0x3_0000].map(|base| Ring { base, available: 0, seen: 0 })
    }

    pub fn device(&self) -> MutexGuard<'_, Vsock> {
        lock(&self.device)
    }

    pub fn activate(&mut self) {
        self.rings = Self::fresh_rings();
        self.free_tx = (0..QUEUE_SIZE / Ring::CHAIN).map(|chain| chain * Ring::CHAIN).collect();
        self.received.clear();
        for ring in &self.rings {
            self.memory.write_slice(&[0; 0x8000], GuestAddress(ring.base)).unwrap();
        }
        let layouts = self.rings.each_ref().map(Ring::layout);
        let mut device = lock(&self.device);
        device.core_mut().activate(1 << VIRTIO_RING_F_EVENT_IDX, &layouts).unwrap();
        device.activated();
    }

    /// Resets the device, as the driver does it.
    pub fn reset(&mut self) {
        let mut device = lock(&self.device);
        device.core_mut().reset();
        device.reset();
    }

    /// Takes the device out of the event loop and puts it back, as pause and resume do.
    pub fn pause_and_resume(&mut self) {
        let device = self.events.remove_subscriber(self.subscriber).unwrap();
        self.subscriber = self.events.add_subscriber(device);
    }

    /// Lets the device work until it has nothing to do. A device that is never done fails the test.
    pub fn run(&mut self) {
        for _ in 0..20_000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    /// Waits until something happens on the host, and lets the device work.
    pub fn wait(&mut self) {
        self.events.run_with_timeout(10_000).unwrap();
        self.run();
    }

    pub fn offer_rx_buffers(&mut self, count: u16) {
        for index in 0..count {
            self.offer_rx_buffer(index);
        }
        self.device().core().kick(RX as u32);
    }

    fn offer_rx_buffer(&mut self, index: u16) {
        let address = RX_BUFFERS + RX_BUFFER_SIZE * u64::from(index);
        self.rings[RX].offer(&self.memory, index, &[(address, RX_BUFFER_SIZE as u32, true)]);
    }

    /// Puts `bytes` into memory, at most 64 KiB and a header, and returns where and which chain to use.
    fn place(&mut self, bytes: &[u8]) -> (u16, u64) {
        while let Some((head, length)) = self.rings[TX].take_used(&self.memory) {
            assert_eq!(length, 0);
            self.free_tx.push(head);
        }
        let head = self.free_tx.pop().expect("the device keeps transmit chains");
        let address = TX_BUFFERS + TX_BUFFER_SIZE * u64::from(head / Ring::CHAIN);
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        (head, address)
    }

    /// Sends a packet whose parts have these lengths.
    pub fn send_in_parts(&mut self, header: &Header, payload: &[u8], parts: &[usize]) {
        let (head, mut address) = self.place(&[header.as_bytes(), payload].concat());
        let chain: Vec<Buffer> = parts
            .iter()
            .map(|length| {
                let buffer = (address, *length as u32, false);
                address += *length as u64;
                buffer
            })
            .collect();
        self.rings[TX].offer(&self.memory, head, &chain);
        self.device().core().kick(TX as u32);
        self.run();
    }

    pub fn send(&mut self, header: &Header, payload: &[u8]) {
        self.send_in_parts(header, payload, &[HEADER_SIZE + payload.len()]);
    }

    /// The next packet of the device, whose buffer goes back to it.
    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.collect(true);
        self.received.pop_front()
    }

    /// As [`Guest::receive`], but the buffers stay with the guest.
    pub fn receive_and_keep(&mut self) -> Option<(Header, Vec<u8>)> {
        self.collect(false);
        self.received.pop_front()
    }

    fn collect(&mut self, give_back: bool) {
        let mut any = false;
        while let Some((head, length)) = self.rings[RX].take_used(&self.memory) {
            let mut bytes = vec![0; length as usize];
            let address = RX_BUFFERS + RX_BUFFER_SIZE * u64::from(head);
            self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            let (header, payload) = Header::read_from_prefix(&bytes).unwrap();
            assert_eq!(header.len.get() as usize, payload.len());
            assert_eq!(header.dst_cid.get(), u64::from(GUEST_CID));
            self.received.push_back((header, payload.to_vec()));
            if give_back {
                self.offer_rx_buffer(head);
            }
            any = true;
        }
        if any && give_back {
            self.device().core().kick(RX as u32);
            self.run();
        }
    }

    /// The next packet, which must have operation `op`.
    pub fn expect(&mut self, op: u16) -> (Header, Vec<u8>) {
        let (header, payload) = self.receive().unwrap_or_else(|| panic!("no packet, wanted operation {op}"));
        assert_eq!((header.op.get(), header.src_cid.get()), (op, HOST_CID), "{header:?}");
        (header, payload)
    }

    pub fn expect_nothing(&mut self) {
        let packet = self.receive();
        assert!(packet.is_none(), "{packet:?}");
    }

    pub fn violations(&self) -> u64 {
        let mut violations = 0;
        self.device().counters().for_each(&mut |name, value| {
            if name == "violations" {
                violations = value;
            }
        });
        violations
    }
}

/// A host's end for ports 1, 2, ..., and the far ends of these.
pub fn ports(count: u32) -> (HostEndpoint, Vec<UnixStream>) {
    let mut ports = BTreeMap::new();
    let peers = (1..=count).map(|port| {
        let (ours, peer) = UnixStream::pair().unwrap();
        ports.insert(port, ours.into());
        peer
    });
    let peers = peers.collect();
    (HostEndpoint::from_descriptors(None, ports), peers)
}

/// A packet of the guest with all its credit.
pub fn packet(op: u16, host_port: u32, guest_port: u32) -> Header {
    Header {
        src_cid: u64::from(GUEST_CID).into(),
        dst_cid: HOST_CID.into(),
        src_port: guest_port.into(),
        dst_port: host_port.into(),
        socket_type: TYPE_STREAM.into(),
        op: op.into(),
        buf_alloc: GUEST_BUFFER.into(),
        ..Header::default()
    }
}
