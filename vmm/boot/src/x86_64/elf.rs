//! Loads an ELF vmlinux.
//!
//! A kernel with the note `XEN_ELFNOTE_PHYS32_ENTRY` is entered by the PVH protocol, any other by the 64-bit Linux protocol
//! at the header's entry point. Headers are read once, so that what was checked is what is used; segments go straight from
//! the file to their physical addresses.

use vm_memory::GuestAddress;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32, U64},
};

use super::{
    Protocol,
    kernel::LoadedKernel,
    layout::{HIGH_MEMORY, IDENTITY_MAP_END},
};
use crate::{
    GuestMemory,
    image::{Image, ImageError},
};

/// First bytes of every ELF file.
pub(crate) const MAGIC: [u8; 4] = *b"\x7fELF";

const CLASS_64: u8 = 2;
const DATA_LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` of `xen/include/public/elfnote.h`.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// The most program headers that are looked at; Linux has about five.
const SEGMENTS_MAX: usize = 64;
/// The most bytes of notes that are looked at in a segment; Linux has less than 1 KiB.
const NOTES_MAX: usize = 0x1_0000;

/// `Elf64_Ehdr`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 4],
    class: u8,
    data: u8,
    ident: [u8; 10],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    program_headers: U64,
    section_headers: U64,
    flags: U32,
    header_size: U16,
    program_header_size: U16,
    program_header_count: U16,
    section_header_size: U16,
    section_header_count: U16,
    section_names: U16,
}

/// `Elf64_Phdr`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    virtual_address: U64,
    physical_address: U64,
    file_size: U64,
    memory_size: U64,
    alignment: U64,
}

/// An ELF file that is no kernel for this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The file can't be read, or is shorter than its headers say.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Not for this processor.
    #[error(
        "kernel is an ELF file of class {class}, byte order {data} and machine {machine}: only 64-bit little-endian \
         x86-64 (2, 1, 62) is supported"
    )]
    Machine {
        /// `e_ident[EI_CLASS]`
        class: u8,
        /// `e_ident[EI_DATA]`
        data: u8,
        /// `e_machine`
        machine: u16,
    },
    /// Program headers of another size.
    #[error("kernel's ELF header says that a program header has {0} bytes, it must say 56: the file is damaged")]
    ProgramHeaderSize(u16),
    /// None or too many program headers.
    #[error(
        "kernel's ELF header speaks of {0} program headers, 1 to {SEGMENTS_MAX} are supported: is this an executable?"
    )]
    ProgramHeaderCount(u16),
    /// A segment that can't be placed.
    #[error(
        "kernel's ELF segment {index} wants {size:#x} bytes at {address:#x}, low memory for kernels is {HIGH_MEMORY:#x} \
         to {end:#x}: give the guest more memory, or build the kernel for another CONFIG_PHYSICAL_START"
    )]
    SegmentAddress {
        /// Number of the program header.
        index: usize,
        /// `p_paddr`
        address: u64,
        /// `p_memsz`
        size: u64,
        /// First address that it can't have.
        end: u64,
    },
    /// A segment with more bytes in the file than in memory.
    #[error(
        "kernel's ELF segment {index} has {file_size:#x} bytes in the file but {memory_size:#x} in memory: the file is damaged"
    )]
    SegmentSize {
        /// Number of the program header.
        index: usize,
        /// `p_filesz`
        file_size: u64,
        /// `p_memsz`
        memory_size: u64,
    },
    /// Too many bytes of notes.
    #[error("kernel's ELF note segment {index} has {size:#x} bytes, the most is {NOTES_MAX:#x}: is this a kernel?")]
    Notes {
        /// Number of the program header.
        index: usize,
        /// `p_filesz`
        size: u64,
    },
    /// A PVH entry point that isn't one.
    #[error(
        "kernel's ELF note XEN_ELFNOTE_PHYS32_ENTRY is no 32-bit address in 4 or 8 bytes, but {0} bytes: build the kernel again"
    )]
    PvhNote(usize),
    /// The first instruction is not in the kernel.
    #[error(
        "kernel's {protocol} entry point {entry:#x} is in none of its segments (or above the first GiB): is this an \
         executable for another address, such as vmlinux with virtual addresses?"
    )]
    Entry {
        /// How it would be entered.
        protocol: Protocol,
        /// Where.
        entry: u64,
    },
}

/// Loads the kernel in `image` into low memory, which ends at `low_end`.
pub(crate) fn load(image: &mut Image<'_>, memory: &GuestMemory, low_end: u64) -> Result<LoadedKernel, ElfError> {
    let mut header = FileHeader::new_zeroed();
    image.read(0, header.as_mut_bytes())?;
    let segments = program_headers(image, &header)?;

    let mut end = HIGH_MEMORY;
    let mut pvh_entry = None;
    for (index, segment) in segments.iter().enumerate() {
        match segment.kind.get() {
            SEGMENT_LOAD => end = end.max(load_segment(image, memory, low_end, index, segment)?),
            SEGMENT_NOTE if pvh_entry.is_none() => pvh_entry = find_pvh_entry(image, index, segment)?,
            _ => {}
        }
    }
    let (protocol, entry) = match pvh_entry {
        Some(entry) => (Protocol::Pvh, entry),
        None => (Protocol::Linux64, header.entry.get()),
    };
    let in_kernel = segments.iter().any(|segment| segment.is_loaded_at(entry));
    if !in_kernel || entry >= IDENTITY_MAP_END {
        return Err(ElfError::Entry { protocol, entry });
    }
    Ok(LoadedKernel { protocol, entry, end, initramfs_end: low_end, setup_header: None })
}

fn program_headers(image: &mut Image<'_>, header: &FileHeader) -> Result<Vec<ProgramHeader>, ElfError> {
    let (class, data, machine) = (header.class, header.data, header.machine.get());
    if (class, data, machine) != (CLASS_64, DATA_LITTLE_ENDIAN, MACHINE_X86_64) {
        return Err(ElfError::Machine { class, data, machine });
    }
    let size = header.program_header_size.get();
    if usize::from(size) != size_of::<ProgramHeader>() {
        return Err(ElfError::ProgramHeaderSize(size));
    }
    let count = header.program_header_count.get();
    if count == 0 || usize::from(count) > SEGMENTS_MAX {
        return Err(ElfError::ProgramHeaderCount(count));
    }
    let mut headers = vec![ProgramHeader::new_zeroed(); usize::from(count)];
    image.read(header.program_headers.get(), headers.as_mut_bytes())?;
    Ok(headers)
}

impl ProgramHeader {
    fn is_loaded_at(&self, address: u64) -> bool {
        let start = self.physical_address.get();
        self.kind.get() == SEGMENT_LOAD
            && address.checked_sub(start).is_some_and(|offset| offset < self.memory_size.get())
    }
}

/// Loads one segment and returns the first address behind it. The part that is not in the file stays as it is: zero.
fn load_segment(
    image: &mut Image<'_>,
    memory: &GuestMemory,
    low_end: u64,
    index: usize,
    segment: &ProgramHeader,
) -> Result<u64, ElfError> {
    let (address, size) = (segment.physical_address.get(), segment.memory_size.get());
    let file_size = segment.file_size.get();
    if size == 0 && file_size == 0 {
        return Ok(0);
    }
    if file_size > size {
        return Err(ElfError::SegmentSize { index, file_size, memory_size: size });
    }
    let end = address
        .checked_add(size)
        .filter(|&end| address >= HIGH_MEMORY && end <= low_end)
        .ok_or(ElfError::SegmentAddress { index, address, size, end: low_end })?;
    image.read_to_guest(segment.offset.get(), file_size, memory, GuestAddress(address))?;
    Ok(end)
}

fn find_pvh_entry(image: &mut Image<'_>, index: usize, segment: &ProgramHeader) -> Result<Option<u64>, ElfError> {
    let size = segment.file_size.get();
    let length =
        usize::try_from(size).ok().filter(|&length| length <= NOTES_MAX).ok_or(ElfError::Notes { index, size })?;
    let mut notes = vec![0; length];
    image.read(segment.offset.get(), &mut notes)?;
    // Segments of notes that are aligned to 8 bytes are padded to 8 (gABI); Linux pads its own to 4.
    let alignment = if segment.alignment.get() == 8 { 8 } else { 4 };
    match pvh_note(&notes, alignment) {
        None => Ok(None),
        Some(&[a, b, c, d] | &[a, b, c, d, 0, 0, 0, 0]) => Ok(Some(u32::from_le_bytes([a, b, c, d]).into())),
        Some(value) => Err(ElfError::PvhNote(value.len())),
    }
}

/// Finds the value of the note with the PVH entry point. A list of notes that is cut off has what is whole in it.
fn pvh_note(mut notes: &[u8], alignment: usize) -> Option<&[u8]> {
    loop {
        let (name_length, rest) = U32::read_from_prefix(notes).ok()?;
        let (value_length, rest) = U32::read_from_prefix(rest).ok()?;
        let (kind, rest) = U32::read_from_prefix(rest).ok()?;
        let (name, rest) = split_padded(rest, name_length, alignment)?;
        let (value, rest) = split_padded(rest, value_length, alignment)?;
        if kind == NOTE_PHYS32_ENTRY && name == b"Xen\0" {
            return Some(value);
        }
        notes = rest;
    }
}

/// Splits `length` bytes off, and the padding behind them.
fn split_padded(bytes: &[u8], length: U32, alignment: usize) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length.get()).ok()?;
    let (field, _) = bytes.split_at_checked(length)?;
    let padded = length.checked_next_multiple_of(alignment)?;
    Some((field, bytes.get(padded..).unwrap_or_default()))
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
