//! What every virtio device has: queues, their eventfds, an interrupt, the guest's memory.
//!
//! Invariants: queues are configured only while the device is [idle](DeviceCore::is_active), and are whole in memory while
//! it's active. A device that met a broken rule is not active until the driver resets it.

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{FaultCounters, GuestFault, Interrupt, Memory};

/// Faults that are written to the log in a device's life; the counters go on.
const LOGGED_FAULTS: u64 = 8;

/// Why a device can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// No descriptor was left.
    #[error("create eventfd: {0}")]
    EventFd(#[source] io::Error),
    /// The device asks for a queue size that virtio doesn't have.
    #[error("create queue of {size} descriptors: not a power of two up to 32768")]
    QueueSize {
        /// The size.
        size: u16,
    },
}

/// Size and place of a queue, as the driver wrote them to the transport's registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Guest address of the descriptor table, 16-byte aligned.
    pub descriptors: u64,
    /// Guest address of the available ring (driver area), 2-byte aligned.
    pub available: u64,
    /// Guest address of the used ring (device area), 4-byte aligned.
    pub used: u64,
}

/// The part that every device has.
#[derive(Debug)]
pub struct DeviceCore {
    memory: Memory,
    queues: Vec<Queue>,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
    faults: Arc<FaultCounters>,
    driver_features: u64,
    active: bool,
}

impl DeviceCore {
    /// An idle device with one queue of each given maximum size.
    ///
    /// # Errors
    /// If a size is no power of two, or the process has no descriptor left.
    pub fn new(memory: Memory, queue_sizes: &[u16]) -> Result<Self, CoreError> {
        let queue = |&size: &u16| Queue::new(size).map_err(|_| CoreError::QueueSize { size });
        let kick = |_: &u16| EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(CoreError::EventFd);
        Ok(Self {
            memory,
            queues: queue_sizes.iter().map(queue).collect::<Result<_, _>>()?,
            kicks: queue_sizes.iter().map(kick).collect::<Result<_, _>>()?,
            interrupt: Arc::new(Interrupt::new().map_err(CoreError::EventFd)?),
            faults: Arc::default(),
            driver_features: 0,
            active: false,
        })
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The queues, in the order of the device's specification.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The queues, to take buffers from and give them back. A queue that the driver left disabled is not `ready`.
    pub fn queues_mut(&mut self) -> &mut [Queue] {
        &mut self.queues
    }

    /// One eventfd for each queue: readable when the driver notified the device.
    pub fn kicks(&self) -> &Arc<[EventFd]> {
        &self.kicks
    }

    /// The interrupt line.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// What the driver did wrong so far.
    pub fn faults(&self) -> &Arc<FaultCounters> {
        &self.faults
    }

    /// Whether the driver said DRIVER_OK, and has broken no rule since. Otherwise queues must not be touched.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Whether feature bit number `bit` was offered and accepted.
    pub fn has_feature(&self, bit: u32) -> bool {
        1_u64.checked_shl(bit).is_some_and(|mask| self.driver_features & mask != 0)
    }

    /// Registers the queues' eventfds with the event loop, with the queue's index as the event's data. For `init`.
    ///
    /// # Errors
    /// If epoll refuses.
    pub fn register(&self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        for (kick, index) in self.kicks.iter().zip(0_u32..) {
            ops.add(Events::with_data(kick, index, EventSet::IN))?;
        }
        Ok(())
    }

    /// Takes back a notification, so that the event loop doesn't see it again. True if there was one.
    pub fn take_kick(&self, queue: u32) -> bool {
        self.kick_event(queue).is_some_and(|kick| kick.read().is_ok())
    }

    /// Has the event loop look at a queue again, as if the driver had notified it: for work that was left for later.
    pub fn kick(&self, queue: u32) {
        if let Some(kick) = self.kick_event(queue) {
            // A full counter is readable, which is all that is wanted.
            let _ = kick.write(1);
        }
    }

    /// Sends the driver an interrupt for the buffers that `queue` used, unless the driver doesn't want one.
    pub fn signal_used(&mut self, queue: usize) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        match queue.needs_notification(self.memory.as_ref()) {
            Ok(false) => {}
            Ok(true) | Err(_) => self.interrupt.signal_used(),
        }
    }

    /// Counts a fault after which the device can go on.
    pub fn count_fault(&self, fault: GuestFault) {
        self.faults.record(fault);
    }

    /// Counts a fault, stops the device, and tells the driver with DEVICE_NEEDS_RESET.
    pub fn fail(&mut self, fault: GuestFault) {
        self.faults.record(fault);
        self.faults.needs_reset.count();
        if self.faults.needs_reset.get() <= LOGGED_FAULTS {
            log::warn!("virtio device needs reset: {fault}");
        }
        self.active = false;
        self.interrupt.demand_reset();
    }

    /// Starts the device with what the driver set up.
    ///
    /// # Errors
    /// If a queue isn't whole in memory. The device then stays idle.
    pub(super) fn activate(&mut self, features: u64, layouts: &[QueueLayout]) -> Result<(), GuestFault> {
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        for (queue, layout) in self.queues.iter_mut().zip(layouts) {
            queue.reset();
            if layout.ready {
                configure(queue, layout, &self.memory)?;
                queue.set_event_idx(event_idx);
                queue.set_ready(true);
            }
        }
        self.driver_features = features;
        self.active = true;
        for index in 0..u32::try_from(self.kicks.len()).unwrap_or(0) {
            self.kick(index);
        }
        Ok(())
    }

    /// Where the device is in each queue: next index of the available and of the used ring.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u16, u16)> {
        self.queues.iter().map(|queue| (queue.next_avail(), queue.next_used()))
    }

    /// Goes on at these places of queues that are [active](Self::is_active).
    pub(super) fn set_positions(&mut self, positions: impl Iterator<Item = (u16, u16)>) {
        for (queue, (next_available, next_used)) in self.queues.iter_mut().zip(positions) {
            queue.set_next_avail(next_available);
            queue.set_next_used(next_used);
        }
    }

    /// Returns to the state after [`new`](Self::new), except for the counters.
    pub(super) fn reset(&mut self) {
        self.active = false;
        self.driver_features = 0;
        self.queues.iter_mut().for_each(Queue::reset);
        for kick in self.kicks.iter() {
            let _ = kick.read();
        }
        self.interrupt.reset();
    }

    fn kick_event(&self, queue: u32) -> Option<&EventFd> {
        self.kicks.get(usize::try_from(queue).ok()?)
    }
}

fn configure(queue: &mut Queue, layout: &QueueLayout, memory: &Memory) -> Result<(), GuestFault> {
    let size = usize::from(layout.size);
    // Lengths of virtio 1.2, 2.7; with event index fields.
    let areas = [
        (layout.descriptors, size.saturating_mul(16)),
        (layout.available, size.saturating_mul(2).saturating_add(6)),
        (layout.used, size.saturating_mul(8).saturating_add(6)),
    ];
    if layout.available == 0 || !areas.iter().all(|&(start, length)| memory.check_range(GuestAddress(start), length)) {
        return Err(GuestFault::QueueLayout);
    }
    let set = |queue: &mut Queue| {
        queue.try_set_size(layout.size)?;
        queue.try_set_desc_table_address(GuestAddress(layout.descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(layout.available))?;
        queue.try_set_used_ring_address(GuestAddress(layout.used))
    };
    set(queue).map_err(|_| GuestFault::QueueLayout)
}
