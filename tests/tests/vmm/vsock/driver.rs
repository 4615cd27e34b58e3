//! What a guest's driver of the vsock device does, for tests to do right and wrong.

use std::io::Read;
use std::os::unix::net::UnixStream;

use serde_json::json;
use stockade_tests::guest::Protocol;
use stockade_tests::puppet::Puppet;
use stockade_tests::virtio::{Descriptor, Device, QUEUE_SIZE, Queue, feature, flag};
use stockade_tests::{Need, PATIENCE, Scratch, test, wait_for};

/// Device id of a socket device, virtio 1.2, section 5.
pub const VSOCK: u32 = 19;

pub const HOST_CID: u64 = 2;
pub const GUEST_CID: u64 = 3;
pub const STREAM: u16 = 1;
pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RESET: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const DATA: u16 = 5;
pub const CREDIT_UPDATE: u16 = 6;
pub const CREDIT_REQUEST: u16 = 7;
pub const SHUTDOWN_SEND: u32 = 2;
pub const SHUTDOWN_BOTH: u32 = 3;

pub const HEADER_BYTES: usize = 44;
pub const RECEIVE_BYTES: u32 = 4096;
/// What the guest says it has room for.
pub const WINDOW: u32 = 256 * 1024;

/// Header of a packet, section 5.10.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    pub length: u32,
    pub kind: u16,
    pub operation: u16,
    pub flags: u32,
    pub window: u32,
    pub forwarded: u32,
}

impl Header {
    /// A packet from the guest to the host, without data.
    pub fn new(operation: u16, source_port: u32, destination_port: u32) -> Self {
        Self {
            source_cid: GUEST_CID,
            destination_cid: HOST_CID,
            source_port,
            destination_port,
            length: 0,
            kind: STREAM,
            operation,
            flags: 0,
            window: WINDOW,
            forwarded: 0,
        }
    }

    /// A request to connect.
    pub fn request(source_port: u32, destination_port: u32) -> Self {
        Self::new(REQUEST, source_port, destination_port)
    }

    /// As it is in a packet.
    pub fn bytes(self) -> Vec<u8> {
        [
            self.source_cid.to_le_bytes().as_slice(),
            &self.destination_cid.to_le_bytes(),
            &self.source_port.to_le_bytes(),
            &self.destination_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.operation.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.window.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ]
        .concat()
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        Self {
            source_cid: u64_at(0),
            destination_cid: u64_at(8),
            source_port: u32_at(16),
            destination_port: u32_at(20),
            length: u32_at(24),
            kind: u16_at(28),
            operation: u16_at(30),
            flags: u32_at(32),
            window: u32_at(36),
            forwarded: u32_at(40),
        }
    }
}

/// A driver that keeps all receive buffers with the device.
pub struct Vsock<'a> {
    pub puppet: &'a Puppet,
    pub device: Device<'a>,
    pub receive: Queue<'a>,
    pub transmit: Queue<'a>,
}

impl<'a> Vsock<'a> {
    pub fn open(puppet: &'a Puppet) -> Self {
        let device = Device::find(puppet, VSOCK);
        assert!(device.negotiate(feature::VERSION_1));
        let (mut receive, transmit, _events) = (device.queue(0), device.queue(1), device.queue(2));
        device.driver_ok();
        for index in 0..QUEUE_SIZE - 6 {
            let address = receive.buffers() + u64::from(index) * u64::from(RECEIVE_BYTES);
            let descriptor = Descriptor { address, length: RECEIVE_BYTES, flags: flag::WRITE, next: 0 };
            receive.set_descriptor(index, descriptor);
            receive.make_available(index);
        }
        receive.kick();
        Self { puppet, device, receive, transmit }
    }

    pub fn send(&mut self, mut header: Header, data: &[u8]) {
        header.length = data.len() as u32;
        self.send_as_it_is(header, data);
        self.transmit.wait_used();
    }

    pub fn send_as_it_is(&mut self, header: Header, data: &[u8]) {
        let at = self.transmit.buffers();
        self.puppet.memory().write(at, &header.bytes());
        self.puppet.memory().write(at + 64, data);
        let header = (at, HEADER_BYTES as u32, 0);
        if data.is_empty() {
            self.transmit.submit(&[header]);
        } else {
            self.transmit.submit(&[header, (at + 64, data.len() as u32, 0)]);
        }
        self.transmit.kick();
    }

    /// The next packet from the host, whose buffer goes back to the device.
    pub fn take(&mut self) -> Option<(Header, Vec<u8>)> {
        let used = self.receive.take_used()?;
        let at = self.receive.buffers() + u64::from(used.head) * u64::from(RECEIVE_BYTES);
        let header = Header::parse(&self.puppet.memory().read_array::<HEADER_BYTES>(at));
        assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, GUEST_CID), "{header:?}");
        assert_eq!(header.length as usize + HEADER_BYTES, used.written as usize, "{header:?}");
        let mut data = vec![0; header.length as usize];
        self.puppet.memory().read(at + HEADER_BYTES as u64, &mut data);
        self.receive.make_available(used.head as u16);
        self.receive.kick();
        Some((header, data))
    }

    /// Waits for a packet with this operation; credit updates may come at any time.
    pub fn expect(&mut self, operation: u16) -> (Header, Vec<u8>) {
        wait_for("a packet", || {
            let packet = self.take()?;
            if packet.0.operation == CREDIT_UPDATE && operation != CREDIT_UPDATE {
                return None;
            }
            assert_eq!(packet.0.operation, operation, "{packet:?}");
            Some(packet)
        })
    }

    /// Collects this many bytes of data.
    pub fn expect_data(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < length {
            data.extend(self.expect(DATA).1);
        }
        data
    }

    /// Connects a guest's port to a host's port that must answer.
    pub fn connect(&mut self, source: u32, destination: u32) {
        self.send(Header::request(source, destination), &[]);
        let (header, _) = self.expect(RESPONSE);
        assert_eq!((header.source_port, header.destination_port), (destination, source));
    }
}

pub fn with_vsock(body: impl FnOnce(&mut Vsock<'_>, &Scratch)) {
    test(&[Need::Kvm], |scratch| {
        let puppet = Puppet::start_with(scratch, Protocol::Pvh, |vmm| {
            vmm.put("/vsock", &json!({ "guest_cid": GUEST_CID, "uds_path": scratch.join("vsock") }));
        });
        body(&mut Vsock::open(&puppet), scratch);
    });
}

pub fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn read_exactly(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

pub fn assert_ends(stream: &mut UnixStream) {
    let ended = match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(ended, "the stream goes on");
}
