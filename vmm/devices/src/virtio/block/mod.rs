//! The block device (virtio 1.2, section 5.2) on a raw file or block device of the host.
//!
//! Requests are done one after the other on the event loop, with data moved straight between guest memory and the file. A
//! request that the driver must not make is answered with an error status, as far as it has a place for a status; a chain
//! that isn't a request stops the device.
//!
//! Syscalls: `preadv`, `pwritev`, `fdatasync`, `fallocate`, and those of the rate limiter.

mod backing;
mod config;
mod request;
#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use zerocopy::IntoBytes;

use self::backing::Backing;
pub use self::backing::{Access, BackingError, CacheType, Discard, check_file};
use self::config::{ConfigSpace, QUEUE_SIZE};
use self::request::Refusal;
use super::chain::Chain;
use super::core::CoreError;
use super::serve::Outcome;
use super::{DeviceCore, FaultCounters, GuestFault, Memory, VirtioDevice};
use crate::counters::{Counters, counters};
use crate::rate_limiter::RateLimiter;

/// Device ID (virtio 1.2, section 5).
const DEVICE_TYPE: u32 = 2;
const REQUEST_QUEUE: u32 = 0;
/// Host errors that are written to the log in a device's life; the counter goes on.
const LOGGED_ERRORS: u64 = 16;

counters! {
    /// What the device did.
    pub struct BlockCounters {
        /// Reads done.
        reads,
        /// Bytes read.
        read_bytes,
        /// Writes done.
        writes,
        /// Bytes written.
        write_bytes,
        /// Flushes done.
        flushes,
        /// Discards done.
        discards,
        /// Write-zeroes requests done.
        write_zeroes,
        /// Times that the rate limiter stopped the device.
        throttled,
        /// Requests that failed on the host.
        host_errors,
    }
}

/// What a block device is made of.
#[derive(Debug)]
pub struct BlockConfig {
    /// A regular file or a block device, open for what `access` needs.
    pub file: std::fs::File,
    /// Whether the guest may write.
    pub access: Access,
    /// Whether the guest's flushes reach the host's disk.
    pub cache_type: CacheType,
    /// Whether the guest may give back space.
    pub discard: Discard,
    /// Limits on bytes and operations.
    pub limiter: Option<RateLimiter>,
}

/// Why a block device can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The file doesn't do.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// No descriptor was left.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// The device.
#[derive(Debug)]
pub struct Block {
    core: DeviceCore,
    chain: Chain,
    config: ConfigSpace,
    server: Server,
}

/// All but the queue, so that it can be borrowed beside the queue.
#[derive(Debug)]
struct Server {
    backing: Backing,
    limiter: Option<RateLimiter>,
    counters: Arc<BlockCounters>,
    faults: Arc<FaultCounters>,
}

impl Block {
    /// A device on `config.file`.
    ///
    /// # Errors
    /// If the file is neither a regular file nor a block device, or isn't open for what is asked.
    pub fn new(memory: Memory, config: BlockConfig) -> Result<Self, BlockError> {
        let core = DeviceCore::new(memory, &[QUEUE_SIZE])?;
        let backing = Backing::new(config.file, config.access, config.cache_type, config.discard)?;
        let faults = core.faults().clone();
        Ok(Self {
            config: ConfigSpace::new(&backing),
            server: Server { backing, limiter: config.limiter, counters: Arc::default(), faults },
            chain: Chain::with_capacity(QUEUE_SIZE),
            core,
        })
    }

    fn serve(&mut self) {
        let server = &mut self.server;
        self.core.serve(REQUEST_QUEUE, &mut self.chain, |memory, chain| server.answer(memory, chain));
    }
}

impl Server {
    fn answer(&mut self, memory: &Memory, chain: &Chain) -> Result<Outcome, GuestFault> {
        let (header, status) = request::parse(memory, chain)?;
        if self.limiter.as_mut().is_some_and(|limiter| !limiter.allow(request::data_length(chain))) {
            self.counters.throttled.count();
            return Ok(Outcome::Later);
        }
        let refusal = request::execute(&header, memory, chain, &self.backing, &self.counters).err();
        match &refusal {
            None => {}
            Some(Refusal::Guest(_)) => self.faults.record(GuestFault::RequestValue),
            Some(Refusal::Host(error)) => {
                self.counters.host_errors.count();
                if self.counters.host_errors.get() <= LOGGED_ERRORS {
                    log::error!("block request of type {}: {error}", header.kind);
                }
            }
        }
        let code = refusal.as_ref().map_or(request::STATUS_OK, Refusal::status);
        chain.writable().write(memory, status, &[code])?;
        // After an error the data before the status byte are not all written, so none of them are promised.
        let written = if refusal.is_none() || status == 0 { chain.writable().length() } else { 0 };
        Ok(Outcome::Done { written: u32::try_from(written).unwrap_or(0), work: request::work(&header, chain) })
    }
}

impl MutEventSubscriber for Block {
    fn init(&mut self, ops: &mut EventOps) {
        let timer = self.server.limiter.as_ref().map(|limiter| ops.add(Events::new(limiter.timer(), EventSet::IN)));
        if let Err(error) = self.core.register(ops).and(timer.unwrap_or(Ok(()))) {
            log::error!("register block device: {error}");
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        match &mut self.server.limiter {
            Some(limiter) if limiter.timer().as_raw_fd() == events.fd() => limiter.on_timer(),
            _ if self.core.take_notification(events.data()) => {}
            _ => return,
        }
        self.serve();
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        config::features(&self.server.backing)
    }

    fn core(&self) -> &DeviceCore {
        &self.core
    }

    fn core_mut(&mut self) -> &mut DeviceCore {
        &mut self.core
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn counters(&self) -> Arc<dyn Counters> {
        self.server.counters.clone()
    }
}
