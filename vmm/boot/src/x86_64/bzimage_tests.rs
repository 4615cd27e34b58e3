use std::{fs::File, io::Write};

use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::image::Role;

const MEMORY: u64 = 16 << 20;
const SETUP_SECTORS: u8 = 2;
const CODE: &[u8] = &[0x90; 0x300];

fn header() -> setup_header {
    setup_header {
        setup_sects: SETUP_SECTORS,
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(MAGIC),
        version: 0x20f,
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 2047,
        initrd_addr_max: 0x7fff_ffff,
        code32_start: 0x10_0000,
        pref_address: 0x20_0000,
        init_size: 0x10_0000,
        ..Default::default()
    }
}

fn image_of(header: setup_header) -> Vec<u8> {
    let mut image = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
    image[HEADER_OFFSET as usize..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
    image.extend(CODE);
    image
}

fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap()
}

fn load_into(memory: &GuestMemory, content: &[u8]) -> Result<LoadedKernel, BzImageError> {
    let mut file = file_of(content);
    let mut image = Image::new(&mut file, Role::Kernel).unwrap();
    assert!(is_bzimage(&mut image).unwrap() || content[0x202..0x206] != MAGIC);
    load(&mut image, memory, MEMORY)
}

fn error(header: setup_header) -> String {
    load_into(&memory(), &image_of(header)).map(|kernel| kernel.entry).unwrap_err().to_string()
}

#[test]
fn the_protected_mode_part_is_loaded_and_keeps_its_header() {
    let memory = memory();
    let kernel = load_into(&memory, &image_of(header())).unwrap();
    assert_eq!((kernel.protocol, kernel.entry), (Protocol::Linux64, 0x10_0200));
    // From the preferred address, the kernel needs init_size bytes for itself.
    assert_eq!((kernel.end, kernel.initramfs_end), (0x30_0000, MEMORY));
    assert_eq!(kernel.setup_header.unwrap().as_slice(), header().as_slice());
    let mut code = vec![0; CODE.len() + 1];
    memory.read_slice(&mut code, GuestAddress(HIGH_MEMORY)).unwrap();
    assert_eq!((&code[..CODE.len()], code[CODE.len()]), (CODE, 0));
}

#[test]
fn an_initramfs_stays_within_the_reach_of_the_kernel() {
    let low = setup_header { initrd_addr_max: 0x7f_ffff, ..header() };
    assert_eq!(load_into(&memory(), &image_of(low)).unwrap().initramfs_end, 0x80_0000);
    let anywhere = setup_header { xloadflags: XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G, ..low };
    assert_eq!(load_into(&memory(), &image_of(anywhere)).unwrap().initramfs_end, MEMORY);
}

#[test]
fn refuses_kernels_that_can_not_run_here() {
    assert!(error(setup_header { version: 0x20b, ..header() }).contains("protocol 0x20b"));
    assert!(error(setup_header { loadflags: 0, ..header() }).contains("loadflags 0x0"));
    assert!(error(setup_header { xloadflags: 0, ..header() }).contains("xloadflags 0x0"));
    assert!(error(setup_header { cmdline_size: 255, ..header() }).contains("255 bytes at most"));
    let big = setup_header { init_size: MEMORY as u32, ..header() };
    assert!(error(big).contains("needs memory from 0x100000 to 0x1200000"), "{}", error(big));
    assert!(error(setup_header { pref_address: u64::MAX, ..header() }).contains("give the guest more memory"));
    assert!(error(setup_header { setup_sects: 64, ..header() }).contains("ends at"));
}

proptest! {
    /// Whatever is in the header: an error, or a kernel within low memory.
    #[test]
    fn damaged_headers_are_errors_or_harmless(
        changes in prop::collection::vec((0x1f1_usize..0x26c, any::<u8>()), 1..8),
        length in 0x26c_usize..0x1000,
    ) {
        let mut image = image_of(header());
        for (offset, value) in changes {
            image[offset] = value;
        }
        image.truncate(length);
        if let Ok(kernel) = load_into(&memory(), &image) {
            prop_assert!(kernel.end <= MEMORY && kernel.initramfs_end <= MEMORY && kernel.entry < kernel.end);
        }
    }
}
