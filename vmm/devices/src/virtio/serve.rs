//! The loop that takes requests off a queue, the same for every device that answers each chain at once.
//!
//! One call does bounded work: at most a queue full of chains and about [`BATCH_WORK`] bytes. What is left makes the
//! queue's eventfd readable again, so that other devices and the API get their turn.

use virtio_queue::{QueueOwnedT, QueueT};

use super::chain::Chain;
use super::{DeviceCore, GuestFault};
use crate::virtio::Memory;

/// Bytes of work after which the rest waits for the next turn.
pub const BATCH_WORK: u64 = 8 << 20;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It's done.
    Done {
        /// Bytes written to the start of the device-writable buffer.
        written: u32,
        /// Bytes that were worked on.
        work: u64,
    },
    /// Not now: it goes back to the queue, and the device will look again by itself.
    Later,
}

impl DeviceCore {
    /// Takes back a notification of queue `index`. True if the queue is to be served.
    pub fn take_notification(&mut self, index: u32) -> bool {
        if !self.take_kick(index) {
            return false;
        }
        if !self.is_active() && !self.interrupt().needs_reset() {
            self.count_fault(GuestFault::Notify);
        }
        self.is_active()
    }

    /// Has `handle` answer the chains of queue `index`, each of them loaded into `chain`. Does nothing if the device is
    /// not active; stops the device at the first fault.
    pub fn serve(
        &mut self,
        index: u32,
        chain: &mut Chain,
        handle: impl FnMut(&Memory, &Chain) -> Result<Outcome, GuestFault>,
    ) {
        let Ok(position) = usize::try_from(index) else { return };
        if !self.is_active() || !self.queues().get(position).is_some_and(QueueT::ready) {
            return;
        }
        let before = self.next_used(position);
        let result = self.serve_batch(position, chain, handle);
        if self.next_used(position) != before {
            self.signal_used(position);
        }
        match result {
            Ok(true) => self.kick(index),
            Ok(false) => {}
            Err(fault) => self.fail(fault),
        }
    }

    /// Returns whether to come back for more.
    fn serve_batch(
        &mut self,
        position: usize,
        chain: &mut Chain,
        mut handle: impl FnMut(&Memory, &Chain) -> Result<Outcome, GuestFault>,
    ) -> Result<bool, GuestFault> {
        let memory = self.memory().clone();
        let memory_ref = memory.as_ref();
        let Some(queue) = self.queues_mut().get_mut(position) else { return Ok(false) };
        let ring_fault = |_| GuestFault::AvailableRing;
        queue.disable_notification(memory_ref).map_err(ring_fault)?;
        let mut work_left = BATCH_WORK;
        for _ in 0..queue.size() {
            let Some(head) = queue.iter(memory_ref).map_err(ring_fault)?.next().map(|chain| chain.head_index()) else {
                break;
            };
            chain.load(memory_ref, queue, head)?;
            let (written, work) = match handle(&memory, chain)? {
                Outcome::Done { written, work } => (written, work),
                Outcome::Later => {
                    queue.go_to_previous_position();
                    return Ok(false);
                }
            };
            queue.add_used(memory_ref, head, written).map_err(|_| GuestFault::Chain)?;
            work_left = work_left.saturating_sub(work);
            if work_left == 0 {
                break;
            }
        }
        queue.enable_notification(memory_ref).map_err(ring_fault)
    }

    fn next_used(&self, position: usize) -> Option<u16> {
        self.queues().get(position).map(QueueT::next_used)
    }
}
