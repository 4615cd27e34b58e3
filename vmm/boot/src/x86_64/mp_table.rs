//! The MP table, by which kernels without ACPI find processors and interrupts (Intel MultiProcessor Specification 1.4).

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use zerocopy::{
    Immutable, IntoBytes,
    little_endian::{U16, U32},
};

use super::layout::{GSI_LAST, IOAPIC, LOCAL_APIC, MP_TABLE};
use crate::GuestMemory;

const SPECIFICATION: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const BUS_ISA: u8 = 0;
const EVERY_APIC: u8 = 0xff;

/// 4.1, MP floating pointer structure.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct FloatingPointer {
    signature: [u8; 4],
    table: U32,
    paragraphs: u8,
    specification: u8,
    checksum: u8,
    features: [u8; 5],
}

/// 4.2, MP configuration table header.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U16,
    specification: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: U32,
    oem_table_size: U16,
    entries: U16,
    local_apic: U32,
    extended: U32,
}

/// 4.3.1, processor entry.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic_id: u8,
    apic_version: u8,
    flags: u8,
    signature: U32,
    features: U32,
    reserved: [U32; 2],
}

/// 4.3.2, bus entry.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

/// 4.3.3, I/O APIC entry.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    id: u8,
    version: u8,
    flags: u8,
    address: U32,
}

/// 4.3.4 and 4.3.5, interrupt assignment entry: I/O (kind 3) or local (kind 4).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Interrupt {
    kind: u8,
    interrupt: u8,
    polarity_and_trigger: U16,
    bus: u8,
    bus_interrupt: u8,
    apic_id: u8,
    pin: u8,
}

const _: () = assert!(size_of::<Header>() == 44 && size_of::<Processor>() == 20);

/// Writes the table for `vcpus` processors.
pub(crate) fn write(memory: &GuestMemory, vcpus: u8) -> Result<(), GuestMemoryError> {
    let pointer_size = size_of::<FloatingPointer>() as u64;
    let table = MP_TABLE.saturating_add(pointer_size);
    let mut pointer = FloatingPointer {
        signature: *b"_MP_",
        table: (table as u32).into(),
        paragraphs: 1,
        specification: SPECIFICATION,
        checksum: 0,
        features: [0; 5],
    };
    pointer.checksum = checksum(&[pointer.as_bytes()]);
    memory.write_slice(pointer.as_bytes(), GuestAddress(MP_TABLE))?;
    memory.write_slice(&build(vcpus), GuestAddress(table))
}

fn build(vcpus: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count = count.saturating_add(1);
    };
    for apic_id in 0..vcpus {
        add(processor(apic_id).as_bytes());
    }
    add(Bus { kind: 1, id: BUS_ISA, name: *b"ISA   " }.as_bytes());
    let io_apic = vcpus;
    add(IoApic { kind: 2, id: io_apic, version: APIC_VERSION, flags: 1, address: IOAPIC.into() }.as_bytes());
    let interrupt = |kind, interrupt, bus_interrupt, apic_id, pin| Interrupt {
        kind,
        interrupt,
        polarity_and_trigger: U16::ZERO,
        bus: BUS_ISA,
        bus_interrupt,
        apic_id,
        pin,
    };
    // Pins above 15 are no interrupts of an ISA bus, but the kernel takes them so, and virtio devices are there.
    for pin in 0..=GSI_LAST as u8 {
        add(interrupt(3, 0, pin, io_apic, pin).as_bytes());
    }
    // External interrupts at the first processor's LINT0, NMI at every processor's LINT1.
    add(interrupt(4, 3, 0, 0, 0).as_bytes());
    add(interrupt(4, 1, 0, EVERY_APIC, 1).as_bytes());

    let length = entries.len().saturating_add(size_of::<Header>());
    let mut header = Header {
        signature: *b"PCMP",
        length: (length as u16).into(),
        specification: SPECIFICATION,
        checksum: 0,
        oem: *b"STOCKADE",
        product: *b"MICROVM     ",
        oem_table: U32::ZERO,
        oem_table_size: U16::ZERO,
        entries: count.into(),
        local_apic: LOCAL_APIC.into(),
        extended: U32::ZERO,
    };
    header.checksum = checksum(&[header.as_bytes(), &entries]);
    let mut table = header.as_bytes().to_vec();
    table.append(&mut entries);
    table
}

fn processor(apic_id: u8) -> Processor {
    const ENABLED: u8 = 1;
    const BOOT: u8 = 2;
    const FEATURE_FPU_AND_APIC: u32 = 0x201;
    Processor {
        kind: 0,
        apic_id,
        apic_version: APIC_VERSION,
        flags: if apic_id == 0 { ENABLED | BOOT } else { ENABLED },
        signature: 0x600.into(),
        features: FEATURE_FPU_AND_APIC.into(),
        reserved: [U32::ZERO; 2],
    }
}

/// The byte that makes the sum of all bytes 0.
fn checksum(parts: &[&[u8]]) -> u8 {
    parts.iter().copied().flatten().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_and_sums_to_zero() {
        for vcpus in 1..=32 {
            let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
            write(&memory, vcpus).unwrap();
            let mut area = [0; (crate::layout::ACPI_TABLES - MP_TABLE) as usize];
            memory.read_slice(&mut area, GuestAddress(MP_TABLE)).unwrap();
            assert_eq!(&area[..4], b"_MP_");
            assert_eq!(checksum(&[&area[..16]]), 0);
            let length = usize::from(u16::from_le_bytes([area[20], area[21]]));
            assert_eq!(checksum(&[&area[16..16 + length]]), 0);
            assert_eq!(length, 44 + usize::from(vcpus) * 20 + 8 + 8 + 26 * 8);
            assert!(area[16 + length..].iter().all(|&byte| byte == 0), "{vcpus} vCPUs: table is longer than it says");
            assert_eq!(u16::from_le_bytes([area[16 + 34], area[16 + 35]]), u16::from(vcpus) + 28);
        }
    }
}
