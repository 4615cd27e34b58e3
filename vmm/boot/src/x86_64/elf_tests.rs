use std::{fs::File, io::Write};

use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::image::Role;

const MEMORY: u64 = 4 << 20;
const KERNEL: u64 = 0x20_0000;

/// A program header, and the bytes that it speaks of.
struct Part {
    kind: u32,
    address: u64,
    content: Vec<u8>,
    memory_size: u64,
}

fn code() -> Part {
    Part { kind: SEGMENT_LOAD, address: KERNEL, content: b"kernel code".to_vec(), memory_size: 0x3000 }
}

fn note(kind: u32, value: &[u8]) -> Part {
    let mut content = vec![];
    for number in [4, value.len() as u32, kind] {
        content.extend(number.to_le_bytes());
    }
    content.extend(b"Xen\0");
    content.extend(value);
    let memory_size = content.len() as u64;
    Part { kind: SEGMENT_NOTE, address: 0, content, memory_size }
}

fn elf(entry: u64, parts: &[Part]) -> Vec<u8> {
    let mut header = FileHeader::new_zeroed();
    header.magic = MAGIC;
    (header.class, header.data) = (CLASS_64, DATA_LITTLE_ENDIAN);
    header.machine = MACHINE_X86_64.into();
    header.entry = entry.into();
    header.program_headers = (size_of::<FileHeader>() as u64).into();
    header.program_header_size = (size_of::<ProgramHeader>() as u16).into();
    header.program_header_count = (parts.len() as u16).into();
    let mut file = header.as_bytes().to_vec();
    let mut offset = file.len() + size_of::<ProgramHeader>() * parts.len();
    for part in parts {
        let mut header = ProgramHeader::new_zeroed();
        header.kind = part.kind.into();
        header.offset = (offset as u64).into();
        header.physical_address = part.address.into();
        header.file_size = (part.content.len() as u64).into();
        header.memory_size = part.memory_size.into();
        file.extend(header.as_bytes());
        offset += part.content.len();
    }
    file.extend(parts.iter().flat_map(|part| &part.content));
    file
}

fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap()
}

fn load_into(memory: &GuestMemory, content: &[u8]) -> Result<LoadedKernel, ElfError> {
    let mut file = file_of(content);
    load(&mut Image::new(&mut file, Role::Kernel).unwrap(), memory, MEMORY)
}

fn error(content: &[u8]) -> String {
    load_into(&memory(), content).map(|kernel| kernel.entry).unwrap_err().to_string()
}

#[test]
fn segments_go_to_their_physical_addresses() {
    let memory = memory();
    let data = Part { kind: SEGMENT_LOAD, address: KERNEL + 0x8000, content: b"data".to_vec(), memory_size: 4 };
    let kernel = load_into(&memory, &elf(KERNEL + 3, &[code(), data])).unwrap();
    assert_eq!((kernel.protocol, kernel.entry, kernel.end), (Protocol::Linux64, KERNEL + 3, KERNEL + 0x8004));
    let mut bytes = [0; 12];
    memory.read_slice(&mut bytes, GuestAddress(KERNEL)).unwrap();
    assert_eq!(&bytes, b"kernel code\0");
    assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(KERNEL + 0x8000)).unwrap(), *b"data");
}

#[test]
fn a_note_asks_for_pvh() {
    let address = (KERNEL as u32 + 8).to_le_bytes();
    for value in [&address[..], &[address, [0; 4]].concat()] {
        let kernel = load_into(&memory(), &elf(0, &[note(1, b"ELF!"), note(18, value), code()])).unwrap();
        assert_eq!((kernel.protocol, kernel.entry), (Protocol::Pvh, KERNEL + 8));
    }
    assert!(error(&elf(KERNEL, &[note(18, b"abc"), code()])).contains("but 3 bytes"));
    assert!(error(&elf(KERNEL, &[note(18, &[0, 0, 0, 0]), code()])).contains("PVH entry point 0x0"));
    let cut_off = note(18, &address).content[..14].to_vec();
    let part = Part { content: cut_off, ..note(18, &address) };
    assert_eq!(load_into(&memory(), &elf(KERNEL, &[part, code()])).unwrap().protocol, Protocol::Linux64);
}

#[test]
fn refuses_what_is_no_kernel_for_this_machine() {
    let valid = elf(KERNEL, &[code()]);
    let with = |offset: usize, bytes: &[u8]| {
        let mut file = valid.clone();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        error(&file)
    };
    assert!(with(4, &[1]).contains("class 1"));
    assert!(with(18, &[183, 0]).contains("machine 183"));
    assert!(with(54, &[32, 0]).contains("has 32 bytes"));
    assert!(with(56, &[0, 0]).contains("0 program headers"));
    assert!(with(56, &[65, 0]).contains("65 program headers"));
    assert!(with(32, &[0xff; 8]).contains("ends at"));
    assert!(error(&valid[..valid.len() - 1]).contains("ends at"));
    assert!(error(&valid[..10]).contains("ends at"));
}

#[test]
fn refuses_segments_that_do_not_fit() {
    let place = |address, memory_size| elf(address, &[Part { address, memory_size, ..code() }]);
    for (address, size) in [
        (HIGH_MEMORY - 1, 0x1000),
        (0, 0x1000),
        (MEMORY - 0xfff, 0x1000),
        (KERNEL, MEMORY),
        (u64::MAX, 0x1000),
        (0xffff_ffff_8100_0000, 0x1000),
    ] {
        assert!(error(&place(address, size)).contains("segment 0 wants"), "{address:#x} + {size:#x}");
    }
    assert!(load_into(&memory(), &place(MEMORY - 0x1000, 0x1000)).is_ok());
    assert!(error(&place(KERNEL, 3)).contains("0xb bytes in the file but 0x3 in memory"));
    assert!(error(&elf(KERNEL + 0x3000, &[code()])).contains("entry point 0x203000 is in none of its segments"));
    let long = Part { content: vec![0; NOTES_MAX + 1], ..note(18, b"") };
    assert!(error(&elf(KERNEL, &[code(), long])).contains("note segment 1 has 0x10001 bytes"));
}

proptest! {
    /// Whatever is in the headers: an error, or a kernel within low memory.
    #[test]
    fn damaged_headers_are_errors_or_harmless(
        changes in prop::collection::vec((0_usize..300, any::<u8>()), 1..12),
        length in 0_usize..400,
    ) {
        let mut file = elf(KERNEL, &[note(18, &(KERNEL as u32).to_le_bytes()), code()]);
        for (offset, value) in changes {
            if let Some(byte) = file.get_mut(offset) {
                *byte = value;
            }
        }
        file.truncate(length.max(64));
        if let Ok(kernel) = load_into(&memory(), &file) {
            prop_assert!(kernel.end <= MEMORY && (HIGH_MEMORY..kernel.end).contains(&kernel.entry));
        }
    }
}
