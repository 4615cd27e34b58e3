//! Bytes on their way from the guest to a reader that may be slow or gone: bounded, and never waited for.

use std::collections::VecDeque;

/// Bytes that wait at most; later ones are dropped and counted.
pub(super) const CAPACITY: usize = 64 * 1024;

/// What [`OutputRing::push`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The byte waits, and somebody drains the ring already.
    Queued,
    /// The byte waits; the event loop must be woken to drain the ring.
    WakeDrain,
    /// There was no room.
    Dropped,
}

/// The ring.
#[derive(Debug)]
pub(super) struct OutputRing {
    bytes: VecDeque<u8>,
    is_draining: bool,
}

impl OutputRing {
    pub(super) fn new() -> Self {
        Self { bytes: VecDeque::with_capacity(CAPACITY), is_draining: false }
    }

    pub(super) fn push(&mut self, byte: u8) -> Pushed {
        if self.bytes.len() >= CAPACITY {
            return Pushed::Dropped;
        }
        self.bytes.push_back(byte);
        if std::mem::replace(&mut self.is_draining, true) { Pushed::Queued } else { Pushed::WakeDrain }
    }

    /// Moves up to `limit` bytes to the empty `chunk`. The next push after a `pop` that found nothing wakes again.
    pub(super) fn pop(&mut self, chunk: &mut Vec<u8>, limit: usize) {
        let count = limit.min(self.bytes.len());
        chunk.extend(self.bytes.drain(..count));
        if self.bytes.is_empty() {
            // Start over at the first page, so that no other gets dirty.
            self.bytes.clear();
            self.is_draining = count > 0;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_once_until_found_empty_and_drops_what_does_not_fit() {
        let mut ring = OutputRing::new();
        assert_eq!(ring.push(0), Pushed::WakeDrain);
        (1..CAPACITY).for_each(|index| assert_eq!(ring.push(index as u8), Pushed::Queued));
        assert_eq!(ring.push(7), Pushed::Dropped);
        let mut chunk = Vec::new();
        ring.pop(&mut chunk, 3);
        assert_eq!(chunk, [0, 1, 2]);
        assert_eq!(ring.push(9), Pushed::Queued);
        chunk.clear();
        ring.pop(&mut chunk, CAPACITY);
        assert_eq!(chunk.len(), CAPACITY - 2);
        assert_eq!(ring.push(1), Pushed::Queued);
        ring.pop(&mut chunk, 1);
        ring.pop(&mut chunk, 1);
        assert_eq!(ring.push(1), Pushed::WakeDrain);
    }
}
