//! The start info of the PVH protocol (`xen/include/public/arch-x86/hvm/start_info.h`).

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::{layout, memory_map::MemoryRange};
use crate::{GuestMemory, LoadedInitramfs};

/// Writes the start info and what it points to.
pub(crate) fn write_start_info(
    memory: &GuestMemory,
    initramfs: Option<LoadedInitramfs>,
    memory_map: &[MemoryRange],
) -> Result<(), GuestMemoryError> {
    let mut address = layout::PVH_MEMORY_MAP;
    let mut entries: u32 = 0;
    for range in memory_map {
        let entry =
            hvm_memmap_table_entry { addr: range.start, size: range.size, type_: range.kind as u32, reserved: 0 };
        memory.write_obj(entry, GuestAddress(address))?;
        address = address.saturating_add(size_of_val(&entry) as u64);
        entries = entries.saturating_add(1);
    }
    let mut start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::RSDP,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    if let Some(initramfs) = initramfs {
        let module = hvm_modlist_entry { paddr: initramfs.address.0, size: initramfs.size, ..Default::default() };
        memory.write_obj(module, GuestAddress(layout::PVH_MODULES))?;
        start_info.nr_modules = 1;
        start_info.modlist_paddr = layout::PVH_MODULES;
    }
    memory.write_obj(start_info, GuestAddress(layout::PVH_START_INFO))
}

#[cfg(test)]
mod tests {
    use super::{super::memory_map::RangeKind, *};

    #[test]
    fn points_to_everything() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let initramfs = LoadedInitramfs { address: GuestAddress(0x7000_0000), size: 0x123 };
        let range = |start| MemoryRange { start, size: 0x1000, kind: RangeKind::Reserved };
        write_start_info(&memory, Some(initramfs), &[range(0), range(0x9000)]).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(0x6000)).unwrap();
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
        assert_eq!((info.memmap_paddr, info.memmap_entries), (0x7000, 2));
        assert_eq!((info.cmdline_paddr, info.rsdp_paddr), (0x20000, 0xe0000));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x7000_0000, 0x123));
        let second: hvm_memmap_table_entry = memory.read_obj(GuestAddress(0x7018)).unwrap();
        assert_eq!((second.addr, second.type_), (0x9000, 2));
    }
}
