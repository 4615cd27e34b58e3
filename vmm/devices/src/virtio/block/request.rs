//! Requests of a block device (virtio 1.2, 5.2.6): what is in a chain, whether the driver may ask for it, and doing it.
//!
//! ```text
//! device-readable: type le32 | reserved le32 | sector le64 | data to write, or ranges to discard ...
//! device-writable: data to read ... | status u8
//! ```
//! The parts may be spread over descriptors in any way.

use std::io;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::GuestMemoryMmap;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::BlockCounters;
use super::backing::{Access, Backing, ID_LENGTH, SECTOR};
use super::config::{MAX_DATA, MAX_DISCARD_SECTORS, MAX_RANGES, MAX_WRITE_ZEROES_SECTORS};
use crate::virtio::GuestFault;
use crate::virtio::chain::Chain;

pub(super) const STATUS_OK: u8 = VIRTIO_BLK_S_OK as u8;
const STATUS_IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const STATUS_UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;
const HEADER_LENGTH: u64 = size_of::<RawHeader>() as u64;
const RANGE_LENGTH: u64 = size_of::<RawRange>() as u64;

/// What a flush, or one range of zeroes, counts as: the largest range.
const SLOW_WORK: u64 = MAX_WRITE_ZEROES_SECTORS as u64 * SECTOR;

/// `struct virtio_blk_req`, up to the data.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct RawHeader {
    kind: U32,
    reserved: U32,
    sector: U64,
}

/// `struct virtio_blk_discard_write_zeroes`.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct RawRange {
    sector: U64,
    sectors: U32,
    flags: U32,
}

/// What the driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u32,
    sector: u64,
}

/// Why a request is answered with an error status.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The driver must not ask for it; the status.
    Guest(u8),
    /// The host failed.
    Host(io::Error),
}

impl Refusal {
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Guest(status) => *status,
            // A file that can't punch holes after all.
            Self::Host(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => STATUS_UNSUPPORTED,
            Self::Host(_) => STATUS_IOERR,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

const OUT_OF_RANGE: Refusal = Refusal::Guest(STATUS_IOERR);
const UNSUPPORTED: Refusal = Refusal::Guest(STATUS_UNSUPPORTED);

/// Header of a request, and the position of its status byte in the device-writable part.
///
/// # Errors
/// If the chain has no room for the header or the status.
pub(super) fn parse(memory: &GuestMemoryMmap, chain: &Chain) -> Result<(Header, u64), GuestFault> {
    let mut raw = RawHeader::new_zeroed();
    chain.readable().read(memory, 0, raw.as_mut_bytes())?;
    let status = chain.writable().length().checked_sub(1).ok_or(GuestFault::Request)?;
    Ok((Header { kind: raw.kind.get(), sector: raw.sector.get() }, status))
}

/// Bytes of the larger part of a request: what a limit of bandwidth counts.
pub(super) fn data_length(chain: &Chain) -> u64 {
    let to_device = chain.readable().length().saturating_sub(HEADER_LENGTH);
    to_device.max(chain.writable().length().saturating_sub(1))
}

/// How much a request may keep the event loop from other work, in bytes moved.
pub(super) fn work(header: &Header, chain: &Chain) -> u64 {
    let data = data_length(chain);
    match header.kind {
        VIRTIO_BLK_T_FLUSH => SLOW_WORK,
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => data.div_ceil(RANGE_LENGTH).saturating_mul(SLOW_WORK),
        _ => data,
    }
}

/// Does what the header says.
///
/// # Errors
/// If the request gets another status than OK.
pub(super) fn execute(
    header: &Header,
    memory: &GuestMemoryMmap,
    chain: &Chain,
    backing: &Backing,
    counters: &BlockCounters,
) -> Result<(), Refusal> {
    let to_device = chain.readable().length().saturating_sub(HEADER_LENGTH);
    let to_driver = chain.writable().length().saturating_sub(1);
    // Only one request type has data in each direction.
    let expects = |to: u64, from: u64| if to_device == to && to_driver == from { Ok(()) } else { Err(OUT_OF_RANGE) };
    match header.kind {
        VIRTIO_BLK_T_IN => {
            expects(0, to_driver)?;
            let offset = offset_of(backing, header.sector, to_driver)?;
            backing.read(offset, memory, chain.writable().range(0, to_driver))?;
            counters.reads.count();
            counters.read_bytes.add(to_driver);
        }
        VIRTIO_BLK_T_OUT => {
            expects(to_device, 0)?;
            writable(backing)?;
            let offset = offset_of(backing, header.sector, to_device)?;
            backing.write(offset, memory, chain.readable().range(HEADER_LENGTH, to_device))?;
            counters.writes.count();
            counters.write_bytes.add(to_device);
        }
        VIRTIO_BLK_T_FLUSH => {
            if header.sector != 0 {
                return Err(OUT_OF_RANGE);
            }
            backing.flush()?;
            counters.flushes.count();
        }
        VIRTIO_BLK_T_GET_ID => {
            expects(0, ID_LENGTH as u64)?;
            chain.writable().write(memory, 0, backing.id()).map_err(|_| OUT_OF_RANGE)?;
        }
        VIRTIO_BLK_T_DISCARD if backing.can_discard() => {
            expects(to_device, 0)?;
            for_each_range(memory, chain, to_device, |range| discard(backing, range))?;
            counters.discards.count();
        }
        VIRTIO_BLK_T_WRITE_ZEROES if backing.can_write_zeroes() => {
            expects(to_device, 0)?;
            for_each_range(memory, chain, to_device, |range| write_zeroes(backing, range))?;
            counters.write_zeroes.count();
        }
        _ => return Err(UNSUPPORTED),
    }
    Ok(())
}

fn writable(backing: &Backing) -> Result<(), Refusal> {
    match backing.access() {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => Err(OUT_OF_RANGE),
    }
}

/// Where `length` bytes from `sector` start in the file, if they are whole sectors of the device, and not too many.
fn offset_of(backing: &Backing, sector: u64, length: u64) -> Result<u64, Refusal> {
    let is_whole = length > 0 && length.is_multiple_of(SECTOR) && length <= MAX_DATA;
    let offset = sector.checked_mul(SECTOR).filter(|_| is_whole).ok_or(OUT_OF_RANGE)?;
    in_device(backing, offset, length)
}

fn in_device(backing: &Backing, offset: u64, length: u64) -> Result<u64, Refusal> {
    let end = offset.checked_add(length).ok_or(OUT_OF_RANGE)?;
    if end <= backing.size() { Ok(offset) } else { Err(OUT_OF_RANGE) }
}

fn for_each_range(
    memory: &GuestMemoryMmap,
    chain: &Chain,
    length: u64,
    mut act: impl FnMut(&RawRange) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let count = length.checked_div(RANGE_LENGTH).unwrap_or(0);
    if count == 0 || count > u64::from(MAX_RANGES) || !length.is_multiple_of(RANGE_LENGTH) {
        return Err(OUT_OF_RANGE);
    }
    for index in 0..count {
        let mut range = RawRange::new_zeroed();
        let position = HEADER_LENGTH.saturating_add(index.saturating_mul(RANGE_LENGTH));
        chain.readable().read(memory, position, range.as_mut_bytes()).map_err(|_| OUT_OF_RANGE)?;
        act(&range)?;
    }
    Ok(())
}

/// Offset and length of a range in bytes, at most `max_sectors`; an empty one needs nothing done.
fn extent(backing: &Backing, range: &RawRange, max_sectors: u32) -> Result<Option<(u64, u64)>, Refusal> {
    if range.sectors.get() > max_sectors {
        return Err(OUT_OF_RANGE);
    }
    let length = u64::from(range.sectors.get()).saturating_mul(SECTOR);
    let offset = range.sector.get().checked_mul(SECTOR).ok_or(OUT_OF_RANGE)?;
    in_device(backing, offset, length)?;
    Ok((length > 0).then_some((offset, length)))
}

fn discard(backing: &Backing, range: &RawRange) -> Result<(), Refusal> {
    if range.flags.get() != 0 {
        return Err(UNSUPPORTED);
    }
    let Some((offset, length)) = extent(backing, range, MAX_DISCARD_SECTORS)? else { return Ok(()) };
    Ok(backing.discard(offset, length)?)
}

fn write_zeroes(backing: &Backing, range: &RawRange) -> Result<(), Refusal> {
    let flags = range.flags.get();
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
        return Err(UNSUPPORTED);
    }
    let Some((offset, length)) = extent(backing, range, MAX_WRITE_ZEROES_SECTORS)? else { return Ok(()) };
    if flags != 0 && backing.can_discard() {
        return Ok(backing.discard(offset, length)?);
    }
    Ok(backing.write_zeroes(offset, length)?)
}
