//! Virtio devices (OASIS virtio 1.2) on a virtio-mmio [transport](mmio).
//!
//! ```text
//!   vCPU thread                                    event loop
//!   MMIO exit -> MmioTransport                     EventManager -> Mutex<D: VirtioDevice>::process
//!                  | registers (own lock)            ^ queue eventfds, the device's own descriptors
//!                  | DRIVER_OK, reset, config:       |
//!                  '---- lock of the device ---------'
//!   notify (ioeventfd, in the kernel) ---------------'
//!                    irqfd (in the kernel) <---------  Interrupt
//! ```
//!
//! A device owns a [`DeviceCore`]: queues, their eventfds, the interrupt, the guest's memory. The transport fills in the
//! queues when the driver says DRIVER_OK and empties them on reset, each time under the device's lock, so that a device
//! which is being reset is never in the middle of a request.

pub mod block;
pub mod chain;
pub mod core;
pub mod entropy;
pub mod fault;
pub mod interrupt;
pub mod mmio;
pub mod serve;
pub mod state;
mod sys;
pub mod vsock;

use std::sync::Arc;

use event_manager::MutEventSubscriber;
use vm_memory::GuestMemoryMmap;

pub use self::core::DeviceCore;
pub use self::fault::{FaultCounters, GuestFault};
pub use self::interrupt::Interrupt;
use crate::counters::Counters;

/// The guest's memory, shared by all that access it.
pub type Memory = Arc<GuestMemoryMmap>;

/// A virtio device behind a transport. The event loop runs it as a subscriber.
///
/// `init` of the subscriber must register every descriptor again, as it runs after each pause of the device, too: whatever
/// happened meanwhile must still be readable from a descriptor. [`DeviceCore::register`] does it for the queues.
pub trait VirtioDevice: MutEventSubscriber + Send {
    /// Device ID of virtio 1.2, section 5: 2 block, 4 entropy, 19 socket.
    fn device_type(&self) -> u32;

    /// Features that the device offers, as bits. The transport adds `VIRTIO_F_VERSION_1`, and insists on it.
    fn features(&self) -> u64;

    /// The part that every device has.
    fn core(&self) -> &DeviceCore;

    /// The part that every device has, for the transport to change.
    fn core_mut(&mut self) -> &mut DeviceCore;

    /// The device's configuration space, little-endian. What the driver reads beyond its end is zero. Called with the
    /// lock of the device, on a vCPU thread; must not allocate or do I/O.
    fn config(&self) -> &[u8];

    /// The driver wrote `data` at `offset` of the configuration space.
    ///
    /// # Errors
    /// If the driver must not write there, which is the default for all of it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) -> Result<(), GuestFault> {
        Err(GuestFault::ConfigWrite)
    }

    /// The driver said DRIVER_OK: [`core`](Self::core) is active, and each queue's eventfd will be readable. Called on a
    /// vCPU thread; must not allocate or do I/O beyond writing to an eventfd.
    fn activated(&mut self) {}

    /// The driver reset the device: [`core`](Self::core) is as at the start, and the rest must become so. Called on a vCPU
    /// thread; must not allocate or do I/O beyond writing to an eventfd (closing a connection is left to the event loop).
    fn reset(&mut self) {}

    /// The device is a copy of one that a driver set up: [`core`](Self::core) is as that one's was, and what led to the host
    /// is gone. Called on the event loop's thread, before any vCPU runs.
    fn restored(&mut self) {}

    /// Counters of what the device did, beside the [faults](DeviceCore::faults).
    fn counters(&self) -> Arc<dyn Counters>;
}
