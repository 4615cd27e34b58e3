//! Packets: the header's wire layout, and packets in the descriptor chains of the guest.
//!
//! virtio 1.2, section 5.10.6. A packet is a 44-byte little-endian header and `len` bytes of payload, laid out over the
//! chain's descriptors however the driver likes: one descriptor for both, one each, or a payload in many pieces (Linux
//! does that for zero-copy and for large packets). The header is copied out once, so that the guest cannot change it
//! between a check and its use; payload is only ever moved between guest memory and a socket or a buffer.
//!
//! Invariant: a chain is walked once, over at most [`MAX_DESCRIPTORS`] descriptors, whatever is in it.

use std::io;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::sys::HostSocket;
use crate::virtio::GuestFault;

/// Bytes of a packet's header.
pub const HEADER_SIZE: usize = size_of::<Header>();

/// Most payload bytes that one packet to the guest carries, so that one connection cannot keep the others waiting.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Most descriptors of one chain: as many as the queue has entries, which only an indirect table could exceed.
pub const MAX_DESCRIPTORS: usize = 256;

/// The host's context identifier (`VMADDR_CID_HOST`).
pub const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one socket type of this device.
pub const TYPE_STREAM: u16 = 1;

/// The operations of a packet (`VIRTIO_VSOCK_OP_*`).
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts it.
    pub const RESPONSE: u16 = 2;
    /// Refuses or ends a connection at once.
    pub const RST: u16 = 3;
    /// Says which directions the sender is done with, see [`super::SHUTDOWN_RECEIVE`] and [`super::SHUTDOWN_SEND`].
    pub const SHUTDOWN: u16 = 4;
    /// Carries payload.
    pub const RW: u16 = 5;
    /// Says how much buffer the sender has.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for a [`CREDIT_UPDATE`].
    pub const CREDIT_REQUEST: u16 = 7;
}

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both directions.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `struct virtio_vsock_hdr`, as it lies in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub struct Header {
    /// Sender's context identifier.
    pub src_cid: U64,
    /// Receiver's context identifier.
    pub dst_cid: U64,
    /// Sender's port.
    pub src_port: U32,
    /// Receiver's port.
    pub dst_port: U32,
    /// Payload bytes.
    pub len: U32,
    /// Socket type.
    pub socket_type: U16,
    /// Operation, one of [`op`].
    pub op: U16,
    /// Flags of the operation.
    pub flags: U32,
    /// Size of the sender's receive buffer in bytes.
    pub buf_alloc: U32,
    /// Bytes that the sender's receive buffer has passed on so far, modulo 2^32.
    pub fwd_cnt: U32,
}

/// A run of bytes in guest memory, in pieces.
#[derive(Debug, Default)]
pub struct Payload<'m> {
    pieces: Vec<VolatileSlice<'m>>,
}

/// Which way the bytes of a chain go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToDevice,
    ToDriver,
}

impl<'m> Payload<'m> {
    /// All buffers of a chain.
    fn gather(
        memory: &'m GuestMemoryMmap,
        chain: DescriptorChain<&'m GuestMemoryMmap>,
        direction: Direction,
    ) -> Result<Self, GuestFault> {
        let access = if direction == Direction::ToDevice { Permissions::Read } else { Permissions::Write };
        let mut pieces = Vec::with_capacity(4);
        let mut ends = true;
        for (position, descriptor) in chain.enumerate() {
            ends = !descriptor.has_next();
            if position >= MAX_DESCRIPTORS {
                return Err(GuestFault::Chain);
            }
            if descriptor.is_write_only() != (direction == Direction::ToDriver) {
                return Err(GuestFault::Request);
            }
            let slices = GuestMemory::get_slices(memory, descriptor.addr(), descriptor.len() as usize, access)
                .map_err(|_| GuestFault::Buffer)?;
            for slice in slices {
                pieces.push(slice.map_err(|_| GuestFault::Buffer)?);
            }
        }
        // The iterator stops without a word at a descriptor that leads nowhere, and in a loop.
        if ends { Ok(Self { pieces }) } else { Err(GuestFault::Chain) }
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len()))
    }

    /// Splits off the first `count` bytes.
    fn take(&mut self, count: usize) -> Result<Self, GuestFault> {
        let mut taken = Self { pieces: Vec::with_capacity(self.pieces.len().min(2)) };
        let mut missing = count;
        let mut rest = std::mem::take(&mut self.pieces).into_iter();
        while missing > 0 {
            let piece = rest.next().ok_or(GuestFault::Request)?;
            let used = piece.len().min(missing);
            taken.pieces.push(piece.subslice(0, used).map_err(|_| GuestFault::Request)?);
            missing = missing.saturating_sub(used);
            if used < piece.len() {
                self.pieces.push(piece.offset(used).map_err(|_| GuestFault::Request)?);
            }
        }
        self.pieces.extend(rest);
        Ok(taken)
    }

    /// Moves bytes from the guest to `socket`, until either has no more; says how many, and leaves the rest.
    pub fn send_to(&mut self, socket: &HostSocket) -> io::Result<usize> {
        let mut sent: usize = 0;
        for piece in &self.pieces {
            match socket.send_from(piece) {
                Ok(count) => {
                    sent = sent.saturating_add(count);
                    if count < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.take(sent).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(sent)
    }

    /// Moves at most `limit` bytes from `socket` to the guest. `None` says that there is nothing to receive now, and 0
    /// that there never will be.
    fn receive_from(&self, socket: &HostSocket, limit: usize) -> io::Result<Option<usize>> {
        if limit == 0 {
            return Ok(None);
        }
        let mut received: usize = 0;
        for piece in &self.pieces {
            let room = piece.len().min(limit.saturating_sub(received));
            let Ok(piece) = piece.subslice(0, room) else { break };
            if room == 0 {
                continue;
            }
            match socket.receive_into(&piece) {
                Ok(count) => {
                    received = received.saturating_add(count);
                    if count < room {
                        break;
                    }
                }
                // An error that follows bytes comes again, with the next packet.
                Err(_) if received > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(received))
    }

    /// Copies as much as fits into `to`.
    fn copy_to(&self, to: &mut [u8]) {
        let mut rest = to;
        for piece in &self.pieces {
            let count = piece.copy_to(rest);
            rest = rest.get_mut(count..).unwrap_or_default();
        }
    }

    /// Copies as much of `from` as fits.
    fn copy_from(&self, from: &[u8]) {
        let mut rest = from;
        for piece in &self.pieces {
            let count = piece.len().min(rest.len());
            let (now, later) = rest.split_at_checked(count).unwrap_or_default();
            piece.copy_from(now);
            rest = later;
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(&mut bytes);
        bytes
    }
}

#[cfg(test)]
impl<'m> From<&'m mut [u8]> for Payload<'m> {
    fn from(bytes: &'m mut [u8]) -> Self {
        Self { pieces: vec![VolatileSlice::from(bytes)] }
    }
}

/// A packet that the guest sent.
#[derive(Debug)]
pub struct TxPacket<'m> {
    /// The header, as it was when it was read.
    pub header: Header,
    /// Exactly `header.len` bytes.
    pub payload: Payload<'m>,
}

impl<'m> TxPacket<'m> {
    /// Reads a chain of the transmit queue.
    pub fn parse(memory: &'m GuestMemoryMmap, chain: DescriptorChain<&'m GuestMemoryMmap>) -> Result<Self, GuestFault> {
        let mut bytes = Payload::gather(memory, chain, Direction::ToDevice)?;
        let mut header = Header::default();
        bytes.take(HEADER_SIZE)?.copy_to(header.as_mut_bytes());
        let payload = bytes.take(header.len.get() as usize)?;
        Ok(Self { header, payload })
    }
}

/// A buffer of the guest for one packet.
#[derive(Debug)]
pub struct RxBuffer<'m> {
    header: Payload<'m>,
    room: Payload<'m>,
}

impl<'m> RxBuffer<'m> {
    /// Reads a chain of the receive queue, which has room for a header and at least one byte more.
    pub fn parse(memory: &'m GuestMemoryMmap, chain: DescriptorChain<&'m GuestMemoryMmap>) -> Result<Self, GuestFault> {
        let mut room = Payload::gather(memory, chain, Direction::ToDriver)?;
        let header = room.take(HEADER_SIZE)?;
        if room.len() == 0 { Err(GuestFault::Request) } else { Ok(Self { header, room }) }
    }

    /// Payload bytes that one packet in this buffer may have.
    pub fn room(&self) -> usize {
        self.room.len().min(MAX_PAYLOAD)
    }

    /// Receives at most `limit` bytes of payload, see [`Payload::receive_from`].
    pub fn receive_from(&self, socket: &HostSocket, limit: usize) -> io::Result<Option<usize>> {
        self.room.receive_from(socket, limit.min(MAX_PAYLOAD))
    }

    /// Puts the header before the payload, and returns the bytes of both, for the used ring.
    pub fn finish(&self, header: &Header) -> u32 {
        self.header.copy_from(header.as_bytes());
        header.len.get().saturating_add(HEADER_SIZE as u32)
    }
}

#[cfg(test)]
impl<'m> RxBuffer<'m> {
    /// A buffer in memory of a test.
    pub fn in_bytes(bytes: &'m mut [u8]) -> Self {
        let mut room = Payload::from(bytes);
        Self { header: room.take(HEADER_SIZE).unwrap(), room }
    }
}
