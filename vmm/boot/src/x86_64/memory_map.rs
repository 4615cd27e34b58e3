//! The memory map that a kernel gets from its loader, in the terms of BIOS function e820.

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::layout::{HIGH_MEMORY, SYSTEM_AREA};
use crate::GuestMemory;

/// What a range of the map is; the values are those of e820 and of PVH alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RangeKind {
    Ram = 1,
    Reserved = 2,
}

/// One range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryRange {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) kind: RangeKind,
}

/// The map of a guest with `memory`: all of it is RAM, except for what stands in for firmware.
pub(crate) fn memory_map(memory: &GuestMemory) -> Vec<MemoryRange> {
    let mut map = Vec::new();
    let mut add = |start: u64, end: u64, kind| {
        if let Some(size @ 1..) = end.checked_sub(start) {
            map.push(MemoryRange { start, size, kind });
        }
    };
    for region in memory.iter() {
        let start = region.start_addr().0;
        let end = start.saturating_add(region.len());
        add(start, end.min(SYSTEM_AREA), RangeKind::Ram);
        add(start.max(SYSTEM_AREA), end.min(HIGH_MEMORY), RangeKind::Reserved);
        add(start.max(HIGH_MEMORY), end, RangeKind::Ram);
    }
    map
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    #[test]
    fn reserves_the_system_area_alone() {
        let memory =
            GuestMemory::from_ranges(&[(GuestAddress(0), 0x20_0000), (GuestAddress(1 << 32), 0x1000)]).unwrap();
        let range = |start, size, kind| MemoryRange { start, size, kind };
        assert_eq!(
            memory_map(&memory),
            [
                range(0, 0x9fc00, RangeKind::Ram),
                range(0x9fc00, 0x60400, RangeKind::Reserved),
                range(0x10_0000, 0x10_0000, RangeKind::Ram),
                range(1 << 32, 0x1000, RangeKind::Ram),
            ]
        );
    }
}
