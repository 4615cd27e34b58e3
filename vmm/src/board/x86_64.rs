//! What every x86 guest finds at fixed ports, as on a PC: serial port, keyboard controller, the registers by which it powers
//! off, and the port by which its kernel reports a panic.

use std::sync::Arc;

use stockade_boot::layout;
use stockade_devices::bus::Bus;
use stockade_devices::guest_request::GuestRequest;
use stockade_devices::legacy::{I8042, PvPanic, SerialPort, SleepRegisters, i8042, power, serial};
use stockade_machine::Machine;

use super::BoardError;

/// The devices, at their ports.
pub(super) struct FixedDevices {
    /// All I/O ports.
    pub(super) ports: Bus,
    /// The guest's side of the console.
    pub(super) serial: Arc<SerialPort>,
    /// Types Ctrl+Alt+Del, and takes the guest's wish for a reset.
    pub(super) keyboard: Arc<I8042>,
}

impl FixedDevices {
    /// Puts the devices at their ports, and wires their interrupts.
    pub(super) fn wire(machine: &Machine, request: &Arc<GuestRequest>) -> Result<Self, BoardError> {
        let serial = Arc::new(SerialPort::new().map_err(BoardError::legacy("the serial port"))?);
        let keyboard = Arc::new(I8042::new(request.clone()).map_err(BoardError::legacy("the keyboard controller"))?);
        machine.register_irqfd(serial.irqfd(), layout::COM1_GSI)?;
        machine.register_irqfd(keyboard.irqfd(), layout::I8042_GSI)?;

        let sleep = Arc::new(SleepRegisters::new(request.clone()));
        let panic = Arc::new(PvPanic::new(request.clone()));
        let mut ports = Bus::new();
        ports.insert(layout::COM1_PORT.into(), serial::LENGTH, serial.clone())?;
        ports.insert(layout::I8042_DATA_PORT.into(), i8042::LENGTH, keyboard.clone())?;
        ports.insert(layout::SLEEP_CONTROL_PORT.into(), power::LENGTH, sleep)?;
        ports.insert(layout::PVPANIC_PORT.into(), 1, panic)?;
        Ok(Self { ports, serial, keyboard })
    }
}
