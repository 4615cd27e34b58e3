//! Firecracker's boot timer: the guest's init writes the byte 123, and the time since the start of the vmm is logged.
//!
//! The vCPU thread that takes the write only reads two clocks (syscall `clock_gettime`); the event loop logs.

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use event_manager::{EventOps, EventSet, EventSubscriber, Events};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::sys;

/// Guest address of the device.
pub const BASE: u64 = 0xc000_0000;
/// Bytes of address space from [`BASE`].
pub const LENGTH: u64 = 0x1000;

const BOOTED: u8 = 123;

/// A point in the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// `CLOCK_MONOTONIC`.
    pub wall: Duration,
    /// `CLOCK_PROCESS_CPUTIME_ID`.
    pub cpu: Duration,
}

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        Self { wall: sys::monotonic_time(), cpu: sys::process_cpu_time() }
    }
}

/// How long the guest took to boot. Prints as Firecracker logs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTime {
    /// Elapsed time.
    pub wall: Duration,
    /// Processor time of the vmm, guest included.
    pub cpu: Duration,
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wall, cpu) = (self.wall.as_micros(), self.cpu.as_micros());
        write!(
            f,
            "Guest-boot-time = {wall:>6} us {} ms, {cpu:>6} CPU us {} CPU ms",
            self.wall.as_millis(),
            self.cpu.as_millis()
        )
    }
}

/// The device, both for the MMIO bus and for the event loop.
#[derive(Debug)]
pub struct BootTimer {
    start: Timestamp,
    boot_time: OnceLock<BootTime>,
    event: EventFd,
}

impl BootTimer {
    /// A timer that runs since `start`.
    ///
    /// # Errors
    /// If the process has no descriptor left for the eventfd.
    pub fn new(start: Timestamp) -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { start, boot_time: OnceLock::new(), event })
    }

    /// How long the guest took, once it said that it has booted. The first time counts.
    pub fn boot_time(&self) -> Option<BootTime> {
        self.boot_time.get().copied()
    }
}

impl BusDevice for BootTimer {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if (offset, data) != (0, &[BOOTED]) || self.boot_time.get().is_some() {
            return;
        }
        let now = Timestamp::now();
        let boot_time =
            BootTime { wall: now.wall.saturating_sub(self.start.wall), cpu: now.cpu.saturating_sub(self.start.cpu) };
        if self.boot_time.set(boot_time).is_ok() {
            // A non-blocking write of 1 to a counter that is written once can't fail.
            let _ = self.event.write(1);
        }
    }
}

impl EventSubscriber for BootTimer {
    fn init(&self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.event, EventSet::IN)) {
            log::error!("register boot timer: {error}");
        }
    }

    fn process(&self, _events: Events, _ops: &mut EventOps) {
        if let (Ok(_), Some(boot_time)) = (self.event.read(), self.boot_time()) {
            log::info!("{boot_time}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_firecracker() {
        let time = BootTime { wall: Duration::from_micros(123_456), cpu: Duration::from_micros(9_876) };
        assert_eq!(time.to_string(), "Guest-boot-time = 123456 us 123 ms,   9876 CPU us 9 CPU ms");
    }

    #[test]
    fn only_the_magic_byte_at_the_start_counts_and_only_once() {
        let timer = BootTimer::new(Timestamp::now()).unwrap();
        timer.write(0, &[122]);
        timer.write(1, &[123]);
        timer.write(0, &[123, 0]);
        assert_eq!(timer.boot_time(), None);
        assert!(timer.event.read().is_err());
        timer.write(0, &[123]);
        let first = timer.boot_time().unwrap();
        timer.write(0, &[123]);
        assert_eq!(timer.boot_time(), Some(first));
        assert_eq!(timer.event.read().unwrap(), 1);
    }
}
