//! One descriptor chain, checked as a whole before any of it is used (virtio 1.2, 2.7.5 and 2.7.13).
//!
//! virtio-queue's own iterator ends a broken chain silently; a device would take the rest for a shorter request. Here it's
//! a fault. Invariants of a loaded [`Chain`]: every segment lies in guest memory, there are no more of them than the queue
//! has descriptors, and all device-readable ones came before the device-writable ones.

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::GuestFault;

const DESCRIPTOR_SIZE: u64 = 16;

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Its length in bytes.
    pub length: u32,
}

/// Bytes of guest memory in several pieces.
#[derive(Debug, Default)]
pub struct Buffer {
    segments: Vec<Segment>,
    length: u64,
}

/// A descriptor chain. To be reused, so that the next one needs no memory.
#[derive(Debug, Default)]
pub struct Chain {
    readable: Buffer,
    writable: Buffer,
}

impl Chain {
    /// A chain that can hold `descriptors` of each kind without allocating.
    pub fn with_capacity(descriptors: u16) -> Self {
        let buffer = || Buffer { segments: Vec::with_capacity(usize::from(descriptors)), length: 0 };
        Self { readable: buffer(), writable: buffer() }
    }

    /// What the device may read.
    pub fn readable(&self) -> &Buffer {
        &self.readable
    }

    /// What the device may write.
    pub fn writable(&self) -> &Buffer {
        &self.writable
    }

    /// Replaces the content by the chain that starts at descriptor `head` of `queue`.
    ///
    /// # Errors
    /// [`GuestFault::Chain`] or [`GuestFault::Buffer`] if the driver must not make such a chain.
    pub fn load(&mut self, memory: &GuestMemoryMmap, queue: &Queue, head: u16) -> Result<(), GuestFault> {
        self.readable.clear();
        self.writable.clear();
        let mut index = head;
        for _ in 0..queue.size() {
            let descriptor = read_descriptor(memory, queue, index)?;
            self.push(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        // More descriptors than the queue has: a loop.
        Err(GuestFault::Chain)
    }

    fn push(&mut self, memory: &GuestMemoryMmap, descriptor: &Descriptor) -> Result<(), GuestFault> {
        if descriptor.refers_to_indirect_table() {
            return Err(GuestFault::Chain);
        }
        let segment = Segment { address: descriptor.addr(), length: descriptor.len() };
        let length = usize::try_from(segment.length).map_err(|_| GuestFault::Buffer)?;
        if !memory.check_range(segment.address, length) {
            return Err(GuestFault::Buffer);
        }
        let buffer = match (descriptor.is_write_only(), self.writable.segments.is_empty()) {
            (true, _) => &mut self.writable,
            (false, true) => &mut self.readable,
            (false, false) => return Err(GuestFault::Chain),
        };
        buffer.push(segment);
        let total = self.readable.length.saturating_add(self.writable.length);
        if total > u64::from(u32::MAX) { Err(GuestFault::Chain) } else { Ok(()) }
    }
}

fn read_descriptor(memory: &GuestMemoryMmap, queue: &Queue, index: u16) -> Result<Descriptor, GuestFault> {
    if index >= queue.size() {
        return Err(GuestFault::Chain);
    }
    let offset = u64::from(index).saturating_mul(DESCRIPTOR_SIZE);
    let address = GuestAddress(queue.desc_table()).checked_add(offset).ok_or(GuestFault::Chain)?;
    memory.read_obj(address).map_err(|_| GuestFault::Chain)
}

impl Buffer {
    /// Total length in bytes, at most 4 GiB - 1.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The pieces that hold `length` bytes from `start`, or fewer if the buffer is shorter.
    pub fn range(&self, start: u64, length: u64) -> impl Iterator<Item = Segment> + '_ {
        let end = start.saturating_add(length);
        let mut position = 0_u64;
        self.segments.iter().filter_map(move |segment| {
            let first = position;
            position = position.saturating_add(u64::from(segment.length));
            let skip = start.saturating_sub(first);
            let length = end.min(position).checked_sub(first.saturating_add(skip)).filter(|&length| length > 0)?;
            let address = segment.address.checked_add(skip)?;
            Some(Segment { address, length: u32::try_from(length).ok()? })
        })
    }

    /// Copies `data.len()` bytes from `start` out of the buffer.
    ///
    /// # Errors
    /// [`GuestFault::Request`] if it's too short.
    pub fn read(&self, memory: &GuestMemoryMmap, start: u64, data: &mut [u8]) -> Result<(), GuestFault> {
        let mut rest = data;
        for segment in self.range(start, u64::try_from(rest.len()).map_err(|_| GuestFault::Request)?) {
            let length = usize::try_from(segment.length).map_err(|_| GuestFault::Request)?;
            let (part, after) = rest.split_at_mut_checked(length).ok_or(GuestFault::Request)?;
            memory.read_slice(part, segment.address).map_err(|_| GuestFault::Buffer)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(GuestFault::Request) }
    }

    /// Copies `data` into the buffer at `start`.
    ///
    /// # Errors
    /// [`GuestFault::Request`] if it's too short.
    pub fn write(&self, memory: &GuestMemoryMmap, start: u64, data: &[u8]) -> Result<(), GuestFault> {
        let mut rest = data;
        for segment in self.range(start, u64::try_from(rest.len()).map_err(|_| GuestFault::Request)?) {
            let length = usize::try_from(segment.length).map_err(|_| GuestFault::Request)?;
            let (part, after) = rest.split_at_checked(length).ok_or(GuestFault::Request)?;
            memory.write_slice(part, segment.address).map_err(|_| GuestFault::Buffer)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(GuestFault::Request) }
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.length = 0;
    }

    fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
        self.length = self.length.saturating_add(u64::from(segment.length));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::mock::MockSplitQueue;

    use super::*;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    fn load(descriptors: &[(u64, u32, u16, u16)]) -> Result<(Vec<Segment>, Vec<Segment>), GuestFault> {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000), (GuestAddress(0x8000), 0x8000)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 8);
        for (index, &(address, length, flags, next)) in descriptors.iter().enumerate() {
            let descriptor = RawDescriptor::from(Descriptor::new(address, length, flags, next));
            mock.desc_table().store(index as u16, descriptor).unwrap();
        }
        let queue: Queue = mock.create_queue().unwrap();
        let mut chain = Chain::with_capacity(8);
        chain.load(&memory, &queue, 0)?;
        Ok((chain.readable.segments, chain.writable.segments))
    }

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address: GuestAddress(address), length }
    }

    #[test]
    fn sorts_descriptors_by_direction() {
        let table = [(0x1000, 16, NEXT, 3), (0, 0, 0, 0), (0x3000, 1, WRITE, 9), (0x7ff0, 32, NEXT | WRITE, 2)];
        let expected = (vec![segment(0x1000, 16)], vec![segment(0x7ff0, 32), segment(0x3000, 1)]);
        assert_eq!(load(&table).unwrap(), expected);
    }

    #[test]
    fn what_a_driver_must_not_make_is_a_fault() {
        type Descriptors = [(u64, u32, u16, u16)];
        let cases: [(&Descriptors, GuestFault); 8] = [
            (&[(0x1000, 1, NEXT, 1), (0x1000, 1, NEXT, 0)], GuestFault::Chain),
            (&[(0x1000, 1, NEXT, 8)], GuestFault::Chain),
            (&[(0x1000, 16, INDIRECT, 0)], GuestFault::Chain),
            (&[(0x1000, 1, NEXT | WRITE, 1), (0x1000, 1, 0, 0)], GuestFault::Chain),
            (&[(0x10000, 1, 0, 0)], GuestFault::Buffer),
            (&[(0xffff, 2, 0, 0)], GuestFault::Buffer),
            (&[(u64::MAX, 2, 0, 0)], GuestFault::Buffer),
            (&[(0, u32::MAX, WRITE, 0)], GuestFault::Buffer),
        ];
        for (table, fault) in cases {
            assert_eq!(load(table), Err(fault), "{table:?}");
        }
    }

    proptest! {
        #[test]
        fn ranges_are_cut_as_from_one_piece(lengths in prop::collection::vec(0u32..20, 0..6), start in 0u64..100, length in 0u64..100) {
            let mut buffer = Buffer::default();
            let mut all = Vec::new();
            for (index, &length) in lengths.iter().enumerate() {
                let address = 0x1000 * (index as u64 + 1);
                buffer.push(segment(address, length));
                all.extend(address..address + u64::from(length));
            }
            let cut: Vec<u64> = all.iter().copied().skip(start as usize).take(length as usize).collect();
            let pieces = buffer.range(start, length).flat_map(|part| part.address.0..part.address.0 + u64::from(part.length));
            prop_assert_eq!(pieces.collect::<Vec<_>>(), cut);
        }
    }
}
