//! The differentiated system description table: the devices in ACPI machine language.

use acpi_tables::{
    Aml,
    aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate},
    sdt::Sdt,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use crate::{
    Platform, VirtioMmio,
    x86_64::layout::{
        COM1_GSI, COM1_PORT, I8042_COMMAND_PORT, I8042_DATA_PORT, I8042_GSI, PVPANIC_PORT, SLEEP_TYPE_S5,
    },
};

/// Size of the header that all tables share (ACPI 6.5, 5.2.6).
const HEADER_SIZE: u32 = 36;
/// The revision from which integers have 64 bits.
const REVISION: u8 = 2;

/// Builds the whole table.
pub(super) fn build(platform: &Platform<'_>) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let devices = platform.virtio_mmio.iter().enumerate().map(|(index, device)| virtio(index, device));
    for object in [sleep_s5(), serial(), keyboard(), pvpanic()].into_iter().chain(devices) {
        table.append_slice(&object);
    }
    table.as_slice().to_vec()
}

/// Power-off is sleep state S5 (7.4.2): the type goes into the sleep control register.
fn sleep_s5() -> Vec<u8> {
    let package = Package::new(vec![&SLEEP_TYPE_S5]);
    bytes_of(&Name::new("_S5_".into(), &package))
}

fn serial() -> Vec<u8> {
    device("_SB_.COM1", &EISAName::new("PNP0501"), 0, &[&io(COM1_PORT, 8), &interrupt(COM1_GSI)])
}

fn keyboard() -> Vec<u8> {
    let resources: [&dyn Aml; 3] = [&io(I8042_DATA_PORT, 1), &io(I8042_COMMAND_PORT, 1), &interrupt(I8042_GSI)];
    device("_SB_.PS2_", &EISAName::new("PNP0303"), 0, &resources)
}

fn pvpanic() -> Vec<u8> {
    device("_SB_.PEVT", &"QEMU0001", 0, &[&io(PVPANIC_PORT, 1)])
}

fn virtio(index: usize, registers: &VirtioMmio) -> Vec<u8> {
    let resources: [&dyn Aml; 2] =
        [&Memory32Fixed::new(true, registers.address, VirtioMmio::SIZE), &interrupt(registers.gsi)];
    device(&format!("_SB_.V{index:03}"), &"LNRO0005", index as u32, &resources)
}

fn device(path: &str, hardware_id: &dyn Aml, unique_id: u32, resources: &[&dyn Aml]) -> Vec<u8> {
    /// Present, enabled, shown, working (6.3.7).
    const STATUS: u8 = 0xf;
    let resources = ResourceTemplate::new(resources.to_vec());
    let objects = [
        Name::new("_HID".into(), hardware_id),
        Name::new("_UID".into(), &unique_id),
        Name::new("_STA".into(), &STATUS),
        Name::new("_CRS".into(), &resources),
    ];
    bytes_of(&Device::new(path.into(), objects.iter().map(|object| object as &dyn Aml).collect()))
}

fn io(port: u16, length: u8) -> IO {
    IO::new(port, port, 1, length)
}

/// An edge-triggered interrupt, active high, not shared: what an irqfd without resampling gives.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}
