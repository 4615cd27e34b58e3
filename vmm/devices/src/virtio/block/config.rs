//! Features and configuration space of a block device (virtio 1.2, 5.2.3 and 5.2.4), and the limits in them.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::backing::{Access, Backing, CacheType, SECTOR};

/// Descriptors in the queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Data segments in a request: the queue less header and status.
const SEG_MAX: u32 = 254;
/// Bytes in a data segment.
const SIZE_MAX: u32 = 128 * 1024;
/// Data bytes in a request, whether the driver knows the two limits above or not.
pub(super) const MAX_DATA: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// Ranges in a discard or write-zeroes request.
pub(super) const MAX_RANGES: u32 = 16;
/// Sectors in a range to discard: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors in a range of zeroes: 1 MiB, as they may have to be written.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 11;

/// `struct virtio_blk_config` of virtio 1.2, up to the fields that have a feature here.
#[derive(Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ConfigSpace {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    geometry: [u8; 4],
    blk_size: U32,
    topology: [u8; 8],
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

impl ConfigSpace {
    pub(super) fn new(backing: &Backing) -> Self {
        Self {
            capacity: backing.size().checked_div(SECTOR).unwrap_or(0).into(),
            size_max: SIZE_MAX.into(),
            seg_max: SEG_MAX.into(),
            num_queues: 1.into(),
            max_discard_sectors: MAX_DISCARD_SECTORS.into(),
            max_discard_seg: MAX_RANGES.into(),
            discard_sector_alignment: 1.into(),
            max_write_zeroes_sectors: MAX_WRITE_ZEROES_SECTORS.into(),
            max_write_zeroes_seg: MAX_RANGES.into(),
            write_zeroes_may_unmap: backing.can_discard().into(),
            ..Self::default()
        }
    }
}

pub(super) fn features(backing: &Backing) -> u64 {
    let bit = |bit: u32, is_on: bool| u64::from(is_on).checked_shl(bit).unwrap_or(0);
    bit(VIRTIO_RING_F_EVENT_IDX, true)
        | bit(VIRTIO_BLK_F_SIZE_MAX, true)
        | bit(VIRTIO_BLK_F_SEG_MAX, true)
        | bit(VIRTIO_BLK_F_RO, backing.access() == Access::ReadOnly)
        | bit(VIRTIO_BLK_F_FLUSH, backing.cache_type() == CacheType::Writeback)
        | bit(VIRTIO_BLK_F_DISCARD, backing.can_discard())
        | bit(VIRTIO_BLK_F_WRITE_ZEROES, backing.can_write_zeroes())
}
