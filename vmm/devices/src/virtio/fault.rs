//! What a driver can do wrong, and how often it did.

use crate::counters::{Counters, counters};

/// A rule that the driver broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestFault {
    /// An access to no register, in the wrong direction, or not of 4 aligned bytes.
    #[error("access to no register, or of the wrong width or direction")]
    Register,
    /// A status that doesn't follow from the one before.
    #[error("device status out of order")]
    Status,
    /// Features that the device didn't offer, no VERSION_1, or features set too late.
    #[error("features not offered, or set too late")]
    Features,
    /// A register of a queue that doesn't exist or is fixed by now, or a value that it can't have.
    #[error("queue register of a missing or running queue, or a value out of range")]
    QueueRegister,
    /// A queue that isn't whole in the guest's memory.
    #[error("queue outside of memory")]
    QueueLayout,
    /// A notification for a queue that doesn't exist or doesn't run.
    #[error("notification of a queue that does not run")]
    Notify,
    /// A read beyond the configuration space.
    #[error("configuration read out of range")]
    ConfigRead,
    /// A write to a part of the configuration space that the driver must not change.
    #[error("configuration write to a read-only field")]
    ConfigWrite,
    /// The available ring moved by more than the queue's size, or can't be read.
    #[error("available ring index out of range")]
    AvailableRing,
    /// A descriptor chain with a loop, an index out of range, a length beyond 4 GiB, an indirect table that was not
    /// negotiated, or a device-readable descriptor after a device-writable one.
    #[error("broken descriptor chain")]
    Chain,
    /// A descriptor that points outside of memory.
    #[error("buffer outside of memory")]
    Buffer,
    /// A chain that doesn't have the parts that the device's requests have, so that it can't even be answered.
    #[error("request without its fixed parts")]
    Request,
    /// A request that was answered with an error.
    #[error("request with a value out of range")]
    RequestValue,
}

counters! {
    /// How often a driver broke which rule, see [`GuestFault`].
    pub struct FaultCounters {
        /// [`GuestFault::Register`]
        register,
        /// [`GuestFault::Status`]
        status,
        /// [`GuestFault::Features`]
        features,
        /// [`GuestFault::QueueRegister`]
        queue_register,
        /// [`GuestFault::QueueLayout`]
        queue_layout,
        /// [`GuestFault::Notify`]
        notify,
        /// [`GuestFault::ConfigRead`]
        config_read,
        /// [`GuestFault::ConfigWrite`]
        config_write,
        /// [`GuestFault::AvailableRing`]
        available_ring,
        /// [`GuestFault::Chain`]
        chain,
        /// [`GuestFault::Buffer`]
        buffer,
        /// [`GuestFault::Request`]
        request,
        /// [`GuestFault::RequestValue`]
        request_value,
        /// How often the device went to DEVICE_NEEDS_RESET.
        needs_reset,
    }
}

impl FaultCounters {
    /// Counts one fault.
    pub fn record(&self, fault: GuestFault) {
        match fault {
            GuestFault::Register => &self.register,
            GuestFault::Status => &self.status,
            GuestFault::Features => &self.features,
            GuestFault::QueueRegister => &self.queue_register,
            GuestFault::QueueLayout => &self.queue_layout,
            GuestFault::Notify => &self.notify,
            GuestFault::ConfigRead => &self.config_read,
            GuestFault::ConfigWrite => &self.config_write,
            GuestFault::AvailableRing => &self.available_ring,
            GuestFault::Chain => &self.chain,
            GuestFault::Buffer => &self.buffer,
            GuestFault::Request => &self.request,
            GuestFault::RequestValue => &self.request_value,
        }
        .count();
    }

    /// All faults together.
    pub fn total(&self) -> u64 {
        let mut total = 0_u64;
        self.for_each(&mut |name, value| {
            if name != "needs_reset" {
                total = total.saturating_add(value);
            }
        });
        total
    }
}
