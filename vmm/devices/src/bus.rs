//! Address spaces of the guest, port or MMIO, and the devices in them.
//!
//! A bus is filled before the first vCPU runs, and then only read: [`Bus::read`] and [`Bus::write`] take no lock, allocate
//! nothing and can't fail. Ranges are sorted and never overlap. An access belongs to a device if all of it lies in the
//! device's range; any other one reads as all ones, writes nowhere, and is counted.

use std::sync::Arc;

use crate::counters::Counter;

/// A device on a [`Bus`]. Called by vCPU threads, several at once if the guest has several.
pub trait BusDevice: Send + Sync {
    /// Fills `data` with what the guest reads at `offset` from the start of the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device can't be put on a bus. Always a mistake of the embedder, never of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The range is empty or ends beyond the address space.
    #[error("insert range {base:#x} + {length:#x}: empty, or beyond the address space")]
    Range {
        /// First address.
        base: u64,
        /// Number of addresses.
        length: u64,
    },
    /// Another device has part of the range.
    #[error("insert range {base:#x} + {length:#x}: overlaps the device at {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Number of addresses.
        length: u64,
        /// First address of the device that is there.
        other: u64,
    },
}

struct Entry {
    first: u64,
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// A port or MMIO address space.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
    unclaimed: Counter,
}

impl Bus {
    /// An address space without a device.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at the `length` addresses from `base`.
    ///
    /// # Errors
    /// If the range is empty, wraps around, or overlaps a device's.
    pub fn insert(&mut self, base: u64, length: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let last =
            length.checked_sub(1).and_then(|span| base.checked_add(span)).ok_or(BusError::Range { base, length })?;
        if let Some(other) = self.entries.iter().find(|entry| entry.first <= last && base <= entry.last) {
            return Err(BusError::Overlap { base, length, other: other.first });
        }
        let index = self.entries.partition_point(|entry| entry.first < base);
        self.entries.insert(index, Entry { first: base, last, device });
        Ok(())
    }

    /// Reads for the guest.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => {
                self.unclaimed.count();
                data.fill(0xff);
            }
        }
    }

    /// Writes for the guest.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => self.unclaimed.count(),
        }
    }

    /// How many accesses no device claimed.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.get()
    }

    fn find(&self, address: u64, length: usize) -> Option<(&dyn BusDevice, u64)> {
        let last = address.checked_add(u64::try_from(length).ok()?.checked_sub(1)?)?;
        let next = self.entries.partition_point(|entry| entry.first <= address);
        let entry = self.entries.get(next.checked_sub(1)?)?;
        let offset = address.checked_sub(entry.first)?;
        (last <= entry.last).then_some((entry.device.as_ref(), offset))
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| (entry.first, entry.last))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn devices_get_offsets_and_strays_read_as_ones() {
        let mut bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x3f8, 8, device.clone()).unwrap();
        bus.insert(0x60, 5, Arc::new(Recorder::default())).unwrap();
        let mut byte = [0];
        bus.read(0x3ff, &mut byte);
        assert_eq!(byte, [7]);
        bus.write(0x3f8, b"x");
        assert_eq!(*device.0.lock().unwrap(), [(0, b"x".to_vec())]);
        assert_eq!(bus.unclaimed(), 0);

        let mut word = [0; 2];
        for address in [0x3ff, 0x3f7, 0x400, 0, u64::MAX] {
            word.fill(0);
            bus.read(address, &mut word);
            assert_eq!(word, [0xff; 2], "{address:#x}");
        }
        bus.write(0x5f, &[0]);
        assert_eq!(bus.unclaimed(), 6);
    }

    #[test]
    fn ranges_that_overlap_or_wrap_are_refused() {
        let mut bus = Bus::new();
        let device: Arc<dyn BusDevice> = Arc::new(Recorder::default());
        bus.insert(0x1000, 0x1000, device.clone()).unwrap();
        for (base, length) in [(0x1000, 0x1000), (0xfff, 2), (0x1fff, 1), (0, u64::MAX), (0x1800, 0x10)] {
            let overlap = BusError::Overlap { base, length, other: 0x1000 };
            assert_eq!(bus.insert(base, length, device.clone()), Err(overlap));
        }
        assert_eq!(bus.insert(0, 0, device.clone()), Err(BusError::Range { base: 0, length: 0 }));
        assert_eq!(bus.insert(u64::MAX, 2, device.clone()), Err(BusError::Range { base: u64::MAX, length: 2 }));
        bus.insert(0x2000, 1, device.clone()).unwrap();
        bus.insert(u64::MAX, 1, device).unwrap();
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_search(
            ranges in prop::collection::vec((0u64..200, 1u64..20), 0..12),
            accesses in prop::collection::vec((0u64..240, 1usize..9), 0..40),
        ) {
            let mut bus = Bus::new();
            let mut kept: Vec<(u64, u64)> = Vec::new();
            for (base, length) in ranges {
                let fits = kept.iter().all(|&(other, size)| base + length <= other || other + size <= base);
                prop_assert_eq!(bus.insert(base, length, Arc::new(Recorder::default())).is_ok(), fits);
                if fits {
                    kept.push((base, length));
                }
            }
            for (address, size) in accesses {
                let mut data = vec![0; size];
                bus.read(address, &mut data);
                let hit = kept.iter().find(|&&(base, len)| base <= address && address + size as u64 <= base + len);
                let expected = hit.map_or(0xff, |&(base, _)| (address - base) as u8);
                prop_assert!(data.iter().all(|&byte| byte == expected));
            }
        }
    }
}
