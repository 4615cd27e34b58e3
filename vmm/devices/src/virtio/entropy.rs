//! The entropy device (virtio 1.2, section 5.4): fills the driver's buffers with random bytes of the host.
//!
//! Syscalls: `getrandom`, and those of the rate limiter.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::chain::Chain;
use super::core::CoreError;
use super::serve::Outcome;
use super::{DeviceCore, GuestFault, Memory, VirtioDevice, sys};
use crate::counters::{Counters, counters};
use crate::rate_limiter::RateLimiter;

/// The most random bytes that answer one request; a longer buffer is filled in part, as the specification allows.
pub const MAX_REQUEST: u64 = 64 * 1024;

/// Device ID (virtio 1.2, section 5).
const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZE: u16 = 256;
const REQUEST_QUEUE: u32 = 0;

counters! {
    /// What the device did.
    pub struct EntropyCounters {
        /// Requests answered.
        requests,
        /// Random bytes given.
        bytes,
        /// Times that the rate limiter stopped the device.
        throttled,
        /// Requests that the host had no random bytes for.
        host_errors,
    }
}

/// The device.
#[derive(Debug)]
pub struct Entropy {
    core: DeviceCore,
    chain: Chain,
    limiter: Option<RateLimiter>,
    counters: Arc<EntropyCounters>,
}

impl Entropy {
    /// A device that is slowed down by `limiter`, if there is one.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new(memory: Memory, limiter: Option<RateLimiter>) -> Result<Self, CoreError> {
        Ok(Self {
            core: DeviceCore::new(memory, &[QUEUE_SIZE])?,
            chain: Chain::with_capacity(QUEUE_SIZE),
            limiter,
            counters: Arc::default(),
        })
    }

    fn serve(&mut self) {
        let (limiter, counters) = (&mut self.limiter, &self.counters);
        self.core.serve(REQUEST_QUEUE, &mut self.chain, |memory, chain| answer(memory, chain, limiter, counters));
    }
}

fn answer(
    memory: &Memory,
    chain: &Chain,
    limiter: &mut Option<RateLimiter>,
    counters: &EntropyCounters,
) -> Result<Outcome, GuestFault> {
    if chain.readable().length() > 0 || chain.writable().length() == 0 {
        return Err(GuestFault::Request);
    }
    let length = chain.writable().length().min(MAX_REQUEST);
    if limiter.as_mut().is_some_and(|limiter| !limiter.allow(length)) {
        counters.throttled.count();
        return Ok(Outcome::Later);
    }
    let written = match sys::fill_random(memory, chain.writable().range(0, length)) {
        Ok(()) => length,
        Err(error) => {
            log::error!("get random bytes: {error}");
            counters.host_errors.count();
            0
        }
    };
    counters.requests.count();
    counters.bytes.add(written);
    Ok(Outcome::Done { written: u32::try_from(written).unwrap_or(0), work: length })
}

impl MutEventSubscriber for Entropy {
    fn init(&mut self, ops: &mut EventOps) {
        let timer = self.limiter.as_ref().map(|limiter| ops.add(Events::new(limiter.timer(), EventSet::IN)));
        if let Err(error) = self.core.register(ops).and(timer.unwrap_or(Ok(()))) {
            log::error!("register entropy device: {error}");
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        match &mut self.limiter {
            Some(limiter) if limiter.timer().as_raw_fd() == events.fd() => limiter.on_timer(),
            _ if self.core.take_notification(events.data()) => {}
            _ => return,
        }
        self.serve();
    }
}

impl VirtioDevice for Entropy {
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
        &[]
    }

    fn counters(&self) -> Arc<dyn Counters> {
        self.counters.clone()
    }
}
