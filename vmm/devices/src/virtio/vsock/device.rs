//! The device as the transport and the event loop see it: queues, configuration space, timer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use thiserror::Error;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::errno;
use vmm_sys_util::timerfd::TimerFd;

use super::host::HostEndpoint;
use super::muxer::Muxer;
use super::packet::{RxBuffer, TxPacket};
use super::watch::{PeerId, Watched};
use crate::counters::Counters;
use crate::virtio::chain::Chain;
use crate::virtio::core::CoreError;
use crate::virtio::{DeviceCore, GuestFault, Memory, VirtioDevice};

/// Device ID of virtio 1.2, section 5.
const DEVICE_TYPE: u32 = 19;
/// Descriptors of each queue, as Firecracker's.
const QUEUE_SIZE: u16 = 256;
/// Chains of one queue that one event may use up.
const BUDGET: u32 = 256;

const RX: u32 = 0;
const TX: u32 = 1;
const EVENT: u32 = 2;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (virtio 1.2, 5.10.6.8): a `struct virtio_vsock_event` of this id.
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();
/// Tokens of events, beside those of the queues and of the peers.
const TIMER: u32 = 8;
const LISTENER: u32 = 9;

/// Why a vsock device cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The part that every device has.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The timer.
    #[error("create vsock timer: {0}")]
    Timer(#[source] io::Error),
}

/// A vsock device.
#[derive(Debug)]
pub struct Vsock {
    core: DeviceCore,
    pub(super) muxer: Muxer,
    config: [u8; 8],
    /// Never read: setting it takes back its event, and cannot block.
    timer: TimerFd,
    armed_for: Option<Instant>,
    listener_watched: Option<EventSet>,
    /// The driver reset the device, and the connections from before are still there.
    reset_pending: bool,
    /// Packets of the guest wait until it has taken RSTs.
    tx_stalled: bool,
    /// The guest still has to learn that its connections are gone.
    transport_reset_owed: bool,
}

impl Vsock {
    /// A device with context identifier `guest_cid`, whose connections lead to `host`.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new(memory: Memory, guest_cid: u32, host: HostEndpoint) -> Result<Self, VsockError> {
        Ok(Self {
            core: DeviceCore::new(memory, &[QUEUE_SIZE; 3])?,
            muxer: Muxer::new(guest_cid, host),
            config: u64::from(guest_cid).to_le_bytes(),
            timer: TimerFd::new().map_err(|error| VsockError::Timer(error.into()))?,
            armed_for: None,
            listener_watched: None,
            reset_pending: false,
            tx_stalled: false,
            transport_reset_owed: false,
        })
    }

    /// Takes packets from the transmit queue.
    fn take_packets(&mut self, now: Instant) -> Result<(), GuestFault> {
        let memory = self.core.memory().clone();
        let mut used = false;
        let result = self.take_packets_of(&memory, now, &mut used);
        if used {
            self.core.signal_used(TX as usize);
        }
        result
    }

    fn take_packets_of(&mut self, memory: &GuestMemoryMmap, now: Instant, used: &mut bool) -> Result<(), GuestFault> {
        self.tx_stalled = false;
        for _ in 0..BUDGET {
            if !self.muxer.takes_packets() {
                self.tx_stalled = true;
                return Ok(());
            }
            let Some(queue) = ready_queue(&mut self.core, TX) else { return Ok(()) };
            match queue.iter(memory).map_err(|_| GuestFault::AvailableRing)?.next() {
                Some(chain) => {
                    let head = chain.head_index();
                    self.muxer.receive(TxPacket::parse(memory, chain)?, now);
                    queue.add_used(memory, head, 0).map_err(|_| GuestFault::Chain)?;
                    *used = true;
                }
                None if queue.enable_notification(memory).map_err(|_| GuestFault::AvailableRing)? => {}
                None => return Ok(()),
            }
        }
        self.core.kick(TX);
        Ok(())
    }

    /// Puts packets into the receive queue, as long as there are packets and buffers.
    fn give_packets(&mut self, now: Instant) -> Result<(), GuestFault> {
        let memory = self.core.memory().clone();
        let mut used = false;
        let result = self.give_packets_of(&memory, now, &mut used);
        if used {
            self.core.signal_used(RX as usize);
        }
        result
    }

    fn give_packets_of(&mut self, memory: &GuestMemoryMmap, now: Instant, used: &mut bool) -> Result<(), GuestFault> {
        for _ in 0..BUDGET {
            if !self.muxer.has_packets() {
                return Ok(());
            }
            let Some(queue) = ready_queue(&mut self.core, RX) else { return Ok(()) };
            match queue.iter(memory).map_err(|_| GuestFault::AvailableRing)?.next() {
                Some(chain) => {
                    let head = chain.head_index();
                    match self.muxer.fill(&RxBuffer::parse(memory, chain)?, now) {
                        Some(length) => {
                            queue.add_used(memory, head, length).map_err(|_| GuestFault::Chain)?;
                            *used = true;
                        }
                        None => queue.go_to_previous_position(),
                    }
                }
                None if queue.enable_notification(memory).map_err(|_| GuestFault::AvailableRing)? => {}
                None => return Ok(()),
            }
        }
        self.core.kick(RX);
        Ok(())
    }

    /// Moves packets both ways; the transmit queue only if the driver may have added to it.
    fn move_packets(&mut self, token: u32, now: Instant) {
        let mut result = Ok(());
        if token == TX {
            result = self.take_packets(now);
        }
        result = result.and_then(|()| self.give_packets(now));
        if let Err(fault) = result {
            self.core.fail(fault);
        } else if self.tx_stalled && self.muxer.takes_packets() {
            self.core.kick(TX);
        }
    }

    /// Tells the guest that its connections are gone, as soon as it has a buffer for that. Its listeners survive.
    fn announce_transport_reset(&mut self) -> Result<(), GuestFault> {
        if !self.transport_reset_owed {
            return Ok(());
        }
        let memory = self.core.memory().clone();
        let memory = memory.as_ref();
        let Some(queue) = ready_queue(&mut self.core, EVENT) else { return Ok(()) };
        let mut chain = Chain::default();
        let Some(head) =
            queue.iter(memory).map_err(|_| GuestFault::AvailableRing)?.next().map(|chain| chain.head_index())
        else {
            return queue.enable_notification(memory).map(drop).map_err(|_| GuestFault::AvailableRing);
        };
        chain.load(memory, queue, head)?;
        chain.writable().write(memory, 0, &TRANSPORT_RESET)?;
        let length = u32::try_from(TRANSPORT_RESET.len()).unwrap_or(0);
        queue.add_used(memory, head, length).map_err(|_| GuestFault::Chain)?;
        self.transport_reset_owed = false;
        self.core.signal_used(EVENT as usize);
        Ok(())
    }

    /// Closes connections whose guest side is gone.
    fn drop_stale(&mut self) {
        if self.reset_pending || !self.core.is_active() {
            self.reset_pending = false;
            self.tx_stalled = false;
            self.muxer.reset();
        }
    }

    fn update_events(&mut self, ops: &mut EventOps, now: Instant) {
        if self.muxer.update_watches(ops) == Watched::NotAll {
            self.core.kick(RX);
        }
        if let Err(error) = self.update_listener(ops) {
            log::warn!("vsock: watch the listener: {error}");
        }
        if self.muxer.earliest_deadline() != self.armed_for {
            self.arm(now);
        }
    }

    fn update_listener(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        let Some(listener) = self.muxer.listener() else { return Ok(()) };
        let wanted = self.core.is_active() && self.muxer.accepts_clients();
        let events = Events::with_data_raw(listener, LISTENER, EventSet::IN);
        match (self.listener_watched, wanted) {
            (None, true) => ops.add(events)?,
            (Some(_), false) => ops.remove(events)?,
            _ => {}
        }
        self.listener_watched = wanted.then_some(EventSet::IN);
        Ok(())
    }

    /// Sets the timer to the earliest deadline, and takes back its event.
    fn arm(&mut self, now: Instant) {
        self.armed_for = self.muxer.earliest_deadline();
        let result: Result<(), errno::Error> = match self.armed_for {
            Some(deadline) => {
                // Zero would stop the timer.
                let wait = deadline.saturating_duration_since(now).max(Duration::from_millis(1));
                self.timer.reset(wait, None)
            }
            None => self.timer.clear(),
        };
        if let Err(error) = result {
            log::warn!("vsock: set the timer: {error}");
        }
    }
}

/// A queue that the driver has enabled.
fn ready_queue(core: &mut DeviceCore, index: u32) -> Option<&mut Queue> {
    core.queues_mut().get_mut(index as usize).filter(|queue| queue.ready())
}

impl MutEventSubscriber for Vsock {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let now = Instant::now();
        let token = events.data();
        self.drop_stale();
        match token {
            TIMER => {
                self.muxer.expire(now);
                self.arm(now);
            }
            LISTENER if self.core.is_active() => self.muxer.accept_client(now),
            token => match PeerId::from_token(token) {
                Some(id) => self.muxer.handle_event(id, events.event_set(), now),
                None => drop(self.core.take_kick(token)),
            },
        }
        if self.core.is_active() {
            match self.announce_transport_reset() {
                Ok(()) => self.move_packets(token, now),
                Err(fault) => self.core.fail(fault),
            }
        }
        self.drop_stale();
        self.update_events(ops, now);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let timer = ops.add(Events::with_data(&self.timer, TIMER, EventSet::IN));
        if let Err(error) = self.core.register(ops).and(timer) {
            log::error!("vsock: watch the queues and the timer: {error}");
        }
        self.listener_watched = None;
        self.muxer.forget_watches();
        self.drop_stale();
        self.update_events(ops, Instant::now());
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn core(&self) -> &DeviceCore {
        &self.core
    }

    fn core_mut(&mut self) -> &mut DeviceCore {
        &mut self.core
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn reset(&mut self) {
        self.reset_pending = true;
        self.transport_reset_owed = false;
        self.core.kick(RX);
    }

    fn restored(&mut self) {
        self.transport_reset_owed = true;
        self.core.kick(EVENT);
    }

    fn counters(&self) -> Arc<dyn Counters> {
        self.muxer.counters().clone()
    }
}
