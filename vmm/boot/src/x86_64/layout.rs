//! Where things are in a guest's physical address space and port space. The addresses are Firecracker's, so that what is
//! built into existing guests holds here too.
//!
//! ```text
//! 0x500           GDT and IDT of the first instructions
//! 0x6000          PVH start info and module list
//! 0x7000          PVH memory map, or zero page
//! 0x9000          page tables of the 64-bit protocol
//! 0x20000         kernel command line
//! 0x9fc00         MP table
//! 0xa0000         ACPI tables
//! 0xe0000         ACPI root pointer (RSDP)
//! 1 MiB           kernel and the rest of low memory, initramfs at its top
//! 3 GiB           device registers, IOAPIC and local APIC
//! 4 GiB           RAM again
//! 256 GiB         64-bit device registers
//! 512 GiB         RAM again
//! ```

use vm_memory::GuestAddress;

use crate::platform::VirtioMmio;

/// Global descriptor table that the first vCPU starts with.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table that the first vCPU starts with: one empty entry.
pub const IDT: u64 = 0x520;
/// `hvm_start_info` of the PVH protocol.
pub const PVH_START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` of the PVH protocol, for the initramfs.
pub const PVH_MODULES: u64 = 0x6040;
/// `hvm_memmap_table_entry` array of the PVH protocol.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// `boot_params` of the Linux protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the first stack.
pub const STACK: u64 = 0x8ff0;
/// Page map level 4 of the 64-bit protocol; the two levels below follow, a page each.
pub const PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// Page directory: 512 pages of 2 MiB, mapped to themselves.
pub const PAGE_DIRECTORY: u64 = 0xb000;
/// First address that the page tables don't map.
pub const IDENTITY_MAP_END: u64 = 1 << 30;
/// The kernel's command line, [`CommandLine::CAPACITY`](crate::CommandLine::CAPACITY) bytes at most.
pub const COMMAND_LINE: u64 = 0x20000;
/// First address of the area that firmware would keep for itself.
pub const SYSTEM_AREA: u64 = MP_TABLE;
/// MP table, in the kilobyte where kernels look for it.
pub const MP_TABLE: u64 = 0x9fc00;
/// ACPI tables except the RSDP.
pub const ACPI_TABLES: u64 = 0xa0000;
/// First address behind them.
pub const ACPI_TABLES_END: u64 = RSDP;
/// ACPI root system description pointer.
pub const RSDP: u64 = 0xe0000;
/// High memory: where kernels are loaded.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// First address of the hole for device registers.
pub const MMIO32_START: u64 = 0xc000_0000;
/// RAM resumes here.
pub const MMIO32_END: u64 = 1 << 32;
/// First address of the hole for 64-bit device registers.
pub const MMIO64_START: u64 = 256 << 30;
/// RAM resumes here.
pub const MMIO64_END: u64 = 512 << 30;
/// The most memory that a guest can have, in bytes.
pub const MEMORY_MAX: u64 = 1022 << 30;

/// Boot timer, if there is one.
pub const BOOT_TIMER: u32 = 0xc000_0000;
/// Registers of the first virtio device.
pub const VIRTIO_MMIO: u32 = 0xc000_1000;
/// Global system interrupt of the first virtio device.
pub const VIRTIO_GSI_FIRST: u32 = 5;
/// Global system interrupt of the last possible virtio device: the IOAPIC has 24 pins.
pub const VIRTIO_GSI_LAST: u32 = GSI_LAST;
/// Last pin of the IOAPIC.
pub const GSI_LAST: u32 = 23;
/// IOAPIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages for KVM's use on Intel processors (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// First port of COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// Interrupt of COM1.
pub const COM1_GSI: u32 = 4;
/// Data port of the i8042 keyboard controller.
pub const I8042_DATA_PORT: u16 = 0x60;
/// Command and status port of the i8042 keyboard controller, and ACPI's reset register.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// Interrupt of the i8042 keyboard controller.
pub const I8042_GSI: u32 = 1;
/// Command that resets the machine.
pub const I8042_RESET: u8 = 0xfe;
/// pvpanic, a byte.
pub const PVPANIC_PORT: u16 = 0x505;
/// ACPI sleep control register, a byte.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register, a byte.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// Type of sleep that powers the machine off, as `\_S5` says.
pub const SLEEP_TYPE_S5: u8 = 5;

/// A size of memory that no guest can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// None, or part of a page.
    #[error("guest memory of {0} bytes: it must be a multiple of 4096 and not 0")]
    Granularity(u64),
    /// Beyond [`MEMORY_MAX`].
    #[error("guest memory of {0} bytes: the most is {MEMORY_MAX} (1022 GiB)")]
    TooLarge(u64),
}

/// Ranges of RAM for a guest with `size` bytes: start and length, in order.
pub fn memory_regions(size: u64) -> Result<Vec<(GuestAddress, usize)>, LayoutError> {
    const RANGES: [(u64, u64); 3] = [(0, MMIO32_START), (MMIO32_END, MMIO64_START), (MMIO64_END, u64::MAX)];
    if size == 0 || !size.is_multiple_of(4096) {
        return Err(LayoutError::Granularity(size));
    }
    if size > MEMORY_MAX {
        return Err(LayoutError::TooLarge(size));
    }
    let mut regions = Vec::with_capacity(RANGES.len());
    let mut rest = size;
    for (start, end) in RANGES {
        let length = rest.min(end.saturating_sub(start));
        if length > 0 {
            let host_length = usize::try_from(length).map_err(|_| LayoutError::TooLarge(size))?;
            regions.push((GuestAddress(start), host_length));
        }
        rest = rest.saturating_sub(length);
    }
    Ok(regions)
}

/// Place of the virtio device number `index`, counted from 0, or `None` if there are no more.
pub fn virtio_mmio(index: usize) -> Option<VirtioMmio> {
    let index = u32::try_from(index).ok()?;
    let gsi = VIRTIO_GSI_FIRST.checked_add(index).filter(|&gsi| gsi <= VIRTIO_GSI_LAST)?;
    let address = VIRTIO_MMIO.checked_add(index.checked_mul(VirtioMmio::SIZE)?)?;
    Some(VirtioMmio { address, gsi })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_goes_around_the_holes() {
        let regions = |size| -> Vec<_> {
            memory_regions(size).unwrap().into_iter().map(|(start, length)| (start.0, length as u64)).collect()
        };
        assert_eq!(regions(4096), [(0, 4096)]);
        assert_eq!(regions(3 * GIB), [(0, 3 * GIB)]);
        assert_eq!(regions(3 * GIB + 4096), [(0, 3 * GIB), (4 * GIB, 4096)]);
        assert_eq!(regions(255 * GIB), [(0, 3 * GIB), (4 * GIB, 252 * GIB)]);
        assert_eq!(regions(MEMORY_MAX), [(0, 3 * GIB), (4 * GIB, 252 * GIB), (512 * GIB, 767 * GIB)]);
    }

    #[test]
    fn refuses_impossible_sizes() {
        assert_eq!(memory_regions(0), Err(LayoutError::Granularity(0)));
        assert_eq!(memory_regions(4097), Err(LayoutError::Granularity(4097)));
        assert_eq!(memory_regions(1 << 40), Err(LayoutError::TooLarge(1 << 40)));
    }

    #[test]
    fn there_are_nineteen_virtio_devices() {
        assert_eq!(virtio_mmio(0), Some(VirtioMmio { address: 0xc000_1000, gsi: 5 }));
        assert_eq!(virtio_mmio(18), Some(VirtioMmio { address: 0xc001_3000, gsi: 23 }));
        assert_eq!(virtio_mmio(19), None);
        assert_eq!(virtio_mmio(usize::MAX), None);
    }
}
