//! The state in which the first vCPU starts, as data, and the tables in guest memory that it points to.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout;
use crate::GuestMemory;

/// Registers of the first vCPU that differ from the processor's reset state. Every data segment is [`CpuState::data`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuState {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Frame pointer.
    pub rbp: u64,
    /// PVH: address of `hvm_start_info`.
    pub rbx: u64,
    /// Linux: address of `boot_params`.
    pub rsi: u64,
    /// Flags.
    pub rflags: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Page tables.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable register.
    pub efer: u64,
    /// Code segment.
    pub code: Segment,
    /// Data, stack and extra segments.
    pub data: Segment,
    /// Task state segment.
    pub task: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset of its descriptor in the GDT.
    pub selector: u16,
    /// Offset of its last byte; it starts at 0.
    pub limit: u32,
    /// Bits 40 to 55 of its descriptor (Intel SDM volume 3, 3.4.5), the limit's four left out: type in bits 0 to 3, S 4,
    /// DPL 5 and 6, P 7, AVL 12, L 13, D/B 14, G 15.
    pub attributes: u16,
}

impl Segment {
    const GRANULARITY: u16 = 1 << 15;

    /// Its descriptor in the GDT.
    const fn descriptor(self) -> u64 {
        let limit = if self.attributes & Self::GRANULARITY == 0 { self.limit } else { self.limit >> 12 } as u64;
        (limit & 0xffff) | ((self.attributes as u64) << 40) | ((limit & 0xf_0000) << 32)
    }
}

/// Value of GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Guest physical address.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u16,
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_RESERVED: u64 = 2;

const DATA: Segment = Segment { selector: 0x10, limit: u32::MAX, attributes: 0xc093 };
const GDT: DescriptorTable = DescriptorTable { base: layout::GDT, limit: 4 * 8 - 1 };
const IDT: DescriptorTable = DescriptorTable { base: layout::IDT, limit: 7 };

/// What differs between the two protocols is set by the constructors.
const BASE: CpuState = CpuState {
    rip: 0,
    rsp: 0,
    rbp: 0,
    rbx: 0,
    rsi: 0,
    rflags: RFLAGS_RESERVED,
    cr0: CR0_PE | CR0_ET,
    cr3: 0,
    cr4: 0,
    efer: 0,
    code: Segment { selector: 8, limit: u32::MAX, attributes: 0xc09b },
    data: DATA,
    task: Segment { selector: 0x18, limit: 0x67, attributes: 0x008b },
    gdt: GDT,
    idt: IDT,
};

impl CpuState {
    /// PVH: 32-bit protected mode, no paging, flat segments (<https://xenbits.xen.org/docs/unstable/misc/pvh.html>).
    pub(crate) const fn pvh(entry: u64) -> Self {
        Self { rip: entry, rbx: layout::PVH_START_INFO, ..BASE }
    }

    /// The 64-bit Linux protocol: long mode, the first gigabyte mapped to itself
    /// (<https://docs.kernel.org/arch/x86/boot.html#id1>).
    pub(crate) const fn linux64(entry: u64) -> Self {
        Self {
            rip: entry,
            rsp: layout::STACK,
            rbp: layout::STACK,
            rsi: layout::ZERO_PAGE,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3: layout::PML4,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            code: Segment { attributes: 0xa09b, ..BASE.code },
            task: Segment { limit: u32::MAX, attributes: 0x808b, ..BASE.task },
            ..BASE
        }
    }

    /// Writes the descriptor table and, if paging is on, the page tables.
    pub(crate) fn write_tables(&self, memory: &GuestMemory) -> Result<(), GuestMemoryError> {
        let descriptors = [0, self.code.descriptor(), self.data.descriptor(), self.task.descriptor()];
        write_words(memory, self.gdt.base, descriptors)?;
        if self.cr0 & CR0_PG == 0 {
            return Ok(());
        }
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        write_words(memory, layout::PML4, [layout::PDPT | PRESENT_WRITABLE])?;
        write_words(memory, layout::PDPT, [layout::PAGE_DIRECTORY | PRESENT_WRITABLE])?;
        write_words(memory, layout::PAGE_DIRECTORY, (0..512).map(|page: u64| (page << 21) | LARGE | PRESENT_WRITABLE))
    }
}

fn write_words(
    memory: &GuestMemory,
    address: u64,
    words: impl IntoIterator<Item = u64>,
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    memory.write_slice(&bytes, GuestAddress(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        assert_eq!(CpuState::pvh(0).code.descriptor(), 0x00cf_9b00_0000_ffff);
        assert_eq!(CpuState::pvh(0).data.descriptor(), 0x00cf_9300_0000_ffff);
        assert_eq!(CpuState::pvh(0).task.descriptor(), 0x0000_8b00_0000_0067);
        assert_eq!(CpuState::linux64(0).code.descriptor(), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn page_tables_map_the_first_gigabyte_to_itself() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        CpuState::linux64(0).write_tables(&memory).unwrap();
        let word = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(word(0x9000), 0xa003);
        assert_eq!(word(0x9008), 0);
        assert_eq!(word(0xa000), 0xb003);
        assert_eq!(word(0xb000), 0x83);
        assert_eq!(word(0xbff8), 0x3fe0_0083);
        assert_eq!(word(0x508), 0x00af_9b00_0000_ffff);
    }
}
