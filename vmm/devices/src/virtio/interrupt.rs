//! The one interrupt line of a virtio-mmio device, and what the driver reads to learn its cause (virtio 1.2, 4.2.2).
//!
//! All of it is atomic, so that the interrupt handler of the guest never waits for a device that is at work.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bit 0 of InterruptStatus: a buffer was used.
pub const USED_BUFFER: u32 = 1;
/// Bit 1 of InterruptStatus: the configuration changed.
pub const CONFIG_CHANGE: u32 = 2;

/// Interrupt line and status of one device.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    config_generation: AtomicU32,
    needs_reset: AtomicBool,
    event: EventFd,
}

impl Interrupt {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            status: AtomicU32::new(0),
            config_generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    /// The descriptor to register with KVM as irqfd: each write is one edge on the device's line.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Tells the driver that the device used a buffer.
    pub fn signal_used(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver that the configuration space changed. To be called after the change, with the device's lock.
    pub fn signal_config(&self) {
        self.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(CONFIG_CHANGE);
    }

    /// InterruptStatus: [`USED_BUFFER`] and [`CONFIG_CHANGE`], as far as the driver has not acknowledged them.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// ConfigGeneration: differs between two reads if the configuration space changed in between.
    pub fn config_generation(&self) -> u32 {
        self.config_generation.load(Ordering::SeqCst)
    }

    /// Whether the device is in DEVICE_NEEDS_RESET.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Sets DEVICE_NEEDS_RESET; the caller knows that the driver said DRIVER_OK.
    pub(super) fn demand_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.raise(CONFIG_CHANGE);
    }

    pub(super) fn reset(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.status.store(0, Ordering::SeqCst);
    }

    /// Takes over what another one's driver has not seen yet, and tells the driver once more.
    pub(super) fn restore(&self, status: u32, config_generation: u32, needs_reset: bool) {
        self.config_generation.store(config_generation, Ordering::SeqCst);
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
        let status = status & (USED_BUFFER | CONFIG_CHANGE);
        if status != 0 {
            self.raise(status);
        }
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // The counter can only be full if nobody reads it, that is, if there's no KVM behind it.
        let _ = self.event.write(1);
    }
}
