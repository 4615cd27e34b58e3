//! The zero page of the Linux boot protocol: `struct boot_params` (<https://docs.kernel.org/arch/x86/zero-page.html>).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::{layout, memory_map::MemoryRange};
use crate::{GuestMemory, LoadedInitramfs};

const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_SECTOR_MAGIC: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const ALIGNMENT: u32 = 0x100_0000;

/// What goes into the zero page.
pub(crate) struct ZeroPage<'a> {
    /// The header of a bzImage; an ELF kernel has none.
    pub(crate) setup_header: Option<setup_header>,
    /// Length of the command line without its terminating zero.
    pub(crate) command_line_length: u32,
    pub(crate) initramfs: Option<LoadedInitramfs>,
    pub(crate) memory_map: &'a [MemoryRange],
}

impl ZeroPage<'_> {
    pub(crate) fn write(&self, memory: &GuestMemory) -> Result<(), GuestMemoryError> {
        let mut params = boot_params { hdr: self.header(), acpi_rsdp_addr: layout::RSDP, ..boot_params::default() };
        if let Some(initramfs) = self.initramfs {
            (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initramfs.address.0);
            (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initramfs.size);
        }
        let mut entries: u8 = 0;
        for (entry, range) in params.e820_table.iter_mut().zip(self.memory_map) {
            *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
            entries = entries.saturating_add(1);
        }
        params.e820_entries = entries;
        memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))
    }

    fn header(&self) -> setup_header {
        let header = self.setup_header.unwrap_or_else(|| setup_header {
            boot_flag: BOOT_SECTOR_MAGIC,
            header: HEADER_MAGIC,
            kernel_alignment: ALIGNMENT,
            ..setup_header::default()
        });
        setup_header {
            type_of_loader: LOADER_UNDEFINED,
            cmd_line_ptr: layout::COMMAND_LINE as u32,
            cmdline_size: self.command_line_length,
            ..header
        }
    }
}

/// Low and high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::{super::memory_map::RangeKind, *};

    #[test]
    fn fields_are_where_the_kernel_looks() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let page = ZeroPage {
            setup_header: None,
            command_line_length: 9,
            initramfs: Some(LoadedInitramfs { address: GuestAddress(0x7ff_f000), size: 0x801 }),
            memory_map: &[MemoryRange { start: 0x10_0000, size: 0x20_0000, kind: RangeKind::Ram }],
        };
        page.write(&memory).unwrap();
        let word = |offset| memory.read_obj::<u32>(GuestAddress(layout::ZERO_PAGE + offset)).unwrap();
        assert_eq!(word(0x70), 0xe0000);
        assert_eq!(word(0x1e8) & 0xff, 1);
        assert_eq!(word(0x1fe) & 0xffff, 0xaa55);
        assert_eq!(word(0x202), u32::from_le_bytes(*b"HdrS"));
        assert_eq!(word(0x210) & 0xff, 0xff);
        assert_eq!((word(0x218), word(0x21c)), (0x7ff_f000, 0x801));
        assert_eq!((word(0x228), word(0x238)), (0x20000, 9));
        assert_eq!((word(0x2d0), word(0x2d8), word(0x2e0)), (0x10_0000, 0x20_0000, 1));
    }
}
