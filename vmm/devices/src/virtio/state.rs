//! What a device's driver has set up, to be saved and restored.
//!
//! A state is input like any other: it is brought back through the same checks as a driver's writes, and then is as fixed as
//! after DRIVER_OK.

use serde::{Deserialize, Serialize};

/// A queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Number of descriptors.
    pub size: u16,
    /// Whether the driver enabled it.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Index of the next entry of the available ring that the device takes.
    pub next_available: u16,
    /// Index of the next entry of the used ring that the device fills.
    pub next_used: u16,
}

/// A device and its transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Device ID (virtio 1.2, section 5).
    pub device_type: u32,
    /// Status register.
    pub status: u32,
    /// DEVICE_NEEDS_RESET.
    pub needs_reset: bool,
    /// DeviceFeaturesSel.
    pub device_features_select: u32,
    /// DriverFeaturesSel.
    pub driver_features_select: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// QueueSel.
    pub queue_select: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// The queues.
    pub queues: Vec<QueueState>,
}

/// A state that the device can't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceStateError {
    /// Of another kind of device.
    #[error("it is of a device of type {found}, and this one is of type {expected}")]
    DeviceType {
        /// In the state.
        found: u32,
        /// This device's.
        expected: u32,
    },
    /// Of another number of queues.
    #[error("it has {found} queues, and the device {expected}")]
    QueueCount {
        /// In the state.
        found: usize,
        /// The device's.
        expected: usize,
    },
    /// No driver gets there.
    #[error("no driver could have set it up: {0}")]
    Driver(#[from] super::GuestFault),
}
