//! Devices at fixed ports: serial port, keyboard controller, ACPI sleep registers, pvpanic; and the boot timer.
//!
//! What the guest can end itself with is reported to a [`GuestRequest`](crate::guest_request::GuestRequest).

pub mod boot_timer;
pub mod console;
pub mod i8042;
mod output_ring;
pub mod power;
pub mod pvpanic;
pub mod serial;
mod terminal;

pub use boot_timer::BootTimer;
pub use console::Console;
pub use i8042::I8042;
pub use power::SleepRegisters;
pub use pvpanic::PvPanic;
pub use serial::SerialPort;
