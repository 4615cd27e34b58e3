//! The pvpanic device of QEMU (docs/specs/pvpanic.rst): the guest's kernel tells that it panicked.
//!
//! The DSDT must have a device QEMU0001 with the port.

use std::sync::Arc;

use stockade_vmm_api::exit::ExitReason;

use crate::bus::BusDevice;
use crate::counters::counters;
use crate::guest_request::GuestRequest;

/// The port.
pub const PORT: u16 = 0x505;
/// Number of ports from [`PORT`].
pub const LENGTH: u64 = 1;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

counters! {
    /// What the guest reported.
    pub struct PvPanicCounters {
        /// Panics: the first one ends the guest.
        panicked,
        /// Panics after which the guest's kernel started a crash kernel, which goes on.
        crash_loaded,
    }
}

/// The device.
#[derive(Debug)]
pub struct PvPanic {
    request: Arc<GuestRequest>,
    counters: Arc<PvPanicCounters>,
}

impl PvPanic {
    /// A device that reports panics to `request`.
    pub fn new(request: Arc<GuestRequest>) -> Self {
        Self { request, counters: Arc::default() }
    }

    /// What the guest reported.
    pub fn counters(&self) -> &Arc<PvPanicCounters> {
        &self.counters
    }
}

impl BusDevice for PvPanic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [events] = data {
            *events = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let &[events] = data else { return };
        if events & CRASH_LOADED != 0 {
            self.counters.crash_loaded.count();
        }
        if events & PANICKED != 0 {
            self.counters.panicked.count();
            self.request.end(ExitReason::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_guest_and_a_loaded_crash_kernel_does_not() {
        let request = Arc::new(GuestRequest::new().unwrap());
        let device = PvPanic::new(request.clone());
        let mut events = [0];
        device.read(0, &mut events);
        assert_eq!(events, [3]);
        device.write(0, &[2]);
        device.write(0, &[0xfc]);
        assert_eq!(request.reason(), None);
        assert_eq!(device.counters().crash_loaded.get(), 1);
        device.write(0, &[1]);
        assert_eq!(request.reason(), Some(ExitReason::Panicked));
    }
}
