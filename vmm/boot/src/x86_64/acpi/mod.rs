//! ACPI tables of a hardware-reduced platform (ACPI 6.5, 4.1): no fixed registers but sleep and reset, devices in the DSDT.

mod dsdt;

use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{
    ACPI_TABLES, I8042_COMMAND_PORT, I8042_RESET, IOAPIC, LOCAL_APIC, RSDP, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT,
};
use crate::{GuestMemory, Platform};

const OEM_ID: [u8; 6] = *b"STOCKD";
const OEM_TABLE_ID: [u8; 8] = *b"STOCKADE";
const OEM_REVISION: u32 = 1;
const HYPERVISOR: u64 = u64::from_le_bytes(*b"STOCKADE");

/// Writes every table.
pub(crate) fn write(memory: &GuestMemory, platform: &Platform<'_>) -> Result<(), GuestMemoryError> {
    let mut tables = Tables { memory, next: ACPI_TABLES };
    let dsdt = tables.add(&dsdt::build(platform))?;
    let fadt = tables.add(&bytes_of(&fadt(dsdt)))?;
    let madt = tables.add(&bytes_of(&madt(platform.vcpus)))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&bytes_of(&xsdt))?;
    memory.write_slice(&bytes_of(&Rsdp::new(OEM_ID, xsdt)), GuestAddress(RSDP))
}

/// Places one table behind the other. The largest set, of 19 virtio devices and 32 vCPUs, takes less than 3 KiB of the
/// 256 KiB there.
struct Tables<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Tables<'_> {
    fn add(&mut self, table: &[u8]) -> Result<u64, GuestMemoryError> {
        let address = self.next;
        self.memory.write_slice(table, GuestAddress(address))?;
        self.next = address.saturating_add(table.len() as u64).next_multiple_of(16);
        Ok(address)
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    /// 5.2.9.3, IA-PC boot architecture flags.
    const KEYBOARD_CONTROLLER: u16 = 1 << 1;
    const NO_VGA: u16 = 1 << 2;
    const NO_MSI: u16 = 1 << 3;
    const NO_ASPM: u16 = 1 << 4;
    const NO_CMOS_CLOCK: u16 = 1 << 5;

    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (KEYBOARD_CONTROLLER | NO_VGA | NO_MSI | NO_ASPM | NO_CMOS_CLOCK).into();
    fadt.reset_reg = byte_port(I8042_COMMAND_PORT);
    fadt.reset_value = I8042_RESET;
    fadt.sleep_control_reg = byte_port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = byte_port(SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = HYPERVISOR.into();
    fadt.finalize()
}

fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn madt(vcpus: u8) -> MADT {
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, LocalInterruptController::Address(LOCAL_APIC));
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    for vcpu in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    madt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn a_guest_finds_every_table_by_its_sum() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let devices: Vec<_> = (0..19).map(|index| layout::virtio_mmio(index).unwrap()).collect();
        write(&memory, &Platform { vcpus: 32, virtio_mmio: &devices }).unwrap();

        let bytes = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        };
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        let word = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        let table = |address, signature: &[u8]| {
            let length = memory.read_obj::<u32>(GuestAddress(address + 4)).unwrap();
            let table = bytes(address, length as usize);
            assert_eq!(&table[..4], signature);
            assert_eq!(sum(&table), 0, "sum of {}", String::from_utf8_lossy(signature));
            table
        };

        let rsdp = bytes(RSDP, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let xsdt = word(RSDP + 24);
        assert_eq!(table(xsdt, b"XSDT").len(), 36 + 16);
        let fadt = table(word(xsdt + 36), b"FACP");
        assert_eq!(fadt.len(), 276);
        assert_eq!(fadt[116..129], [1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0, 0xfe]);
        assert_eq!(fadt[244..252], [1, 8, 0, 1, 0, 6, 0, 0]);
        assert_eq!(fadt[256..264], [1, 8, 0, 1, 1, 6, 0, 0]);
        assert_eq!(u32::from_le_bytes(fadt[112..116].try_into().unwrap()) & (1 << 20), 1 << 20);
        assert_eq!(table(word(xsdt + 44), b"APIC").len(), 44 + 12 + 32 * 8);
        let dsdt = table(u64::from_le_bytes(fadt[140..148].try_into().unwrap()), b"DSDT");
        assert_eq!(dsdt.windows(8).filter(|window| window == b"LNRO0005").count(), 19);
        assert!(dsdt.windows(8).any(|window| window == b"QEMU0001"));
        assert!(dsdt.windows(4).any(|window| window == b"_S5_"));
        assert!(dsdt.len() < 0x1000);
    }
}
