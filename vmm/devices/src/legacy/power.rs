//! Sleep control and sleep status registers of a hardware-reduced ACPI platform (ACPI 6.5, section 4.8.3.7).
//!
//! The FADT must name the two ports, and the DSDT an `\_S5` package with [`SLP_TYP_S5`]. No other sleep state exists.

use std::sync::Arc;

use stockade_vmm_api::exit::ExitReason;

use crate::bus::BusDevice;
use crate::guest_request::GuestRequest;

/// Port of SLEEP_CONTROL_REG.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Port of SLEEP_STATUS_REG.
pub const SLEEP_STATUS: u16 = 0x601;
/// Number of ports from [`SLEEP_CONTROL`].
pub const LENGTH: u64 = 2;
/// The value of SLP_TYPx that means S5, soft off.
pub const SLP_TYP_S5: u8 = 5;

const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 7;

/// The two registers.
#[derive(Debug)]
pub struct SleepRegisters {
    request: Arc<GuestRequest>,
}

impl SleepRegisters {
    /// Registers that report entry to S5 to `request`.
    pub fn new(request: Arc<GuestRequest>) -> Self {
        Self { request }
    }
}

impl BusDevice for SleepRegisters {
    /// Both read as 0: the guest never slept, so WAK_STS is never set.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, &[value]) = (offset, data)
            && value & SLP_EN != 0
            && value >> SLP_TYP_SHIFT & SLP_TYP_MASK == SLP_TYP_S5
        {
            self.request.end(ExitReason::PowerOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entry_to_s5_powers_off() {
        let request = Arc::new(GuestRequest::new().unwrap());
        let registers = SleepRegisters::new(request.clone());
        for value in (0..=u8::MAX).filter(|value| value & 0x3c != 0x34) {
            registers.write(0, &[value]);
        }
        registers.write(1, &[0x34]);
        registers.write(0, &[0x34, 0]);
        assert_eq!(request.reason(), None);
        registers.write(0, &[0x34]);
        assert_eq!(request.reason(), Some(ExitReason::PowerOff));
    }
}
