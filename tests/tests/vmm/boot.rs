//! What a guest finds when it is entered: memory map, command line, initramfs, tables, processors.

use serde_json::{Value, json};
use stockade_tests::guest::{HELLO, Protocol};
use stockade_tests::memory::GuestMemory;
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::{Exit, Vmm};
use stockade_tests::{Need, test};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOLE: std::ops::Range<u64> = 3 * GIB..4 * GIB;
const USABLE: u32 = 1;

/// What the boot information says, whichever protocol's it is.
#[derive(Debug)]
struct BootInformation {
    /// Start, size and type.
    memory_map: Vec<(u64, u64, u32)>,
    command_line: String,
    initramfs: (u64, u64),
    rsdp: u64,
}

fn read_boot_information(puppet: &Puppet) -> BootInformation {
    let (memory, at) = (puppet.memory(), puppet.boot_information());
    match puppet.entered_by() {
        // Documentation/arch/x86/zero-page.rst
        Protocol::Linux64 | Protocol::BzImage => {
            assert_eq!(memory.read_u16(at + 0x1fe), 0xaa55);
            assert_eq!(&memory.read_array::<4>(at + 0x202), b"HdrS");
            let entries = u64::from(memory.read_array::<1>(at + 0x1e8)[0]);
            let entry = |index| at + 0x2d0 + index * 20;
            let read = |at| (memory.read_u64(at), memory.read_u64(at + 8), memory.read_u32(at + 16));
            BootInformation {
                memory_map: (0..entries).map(|index| read(entry(index))).collect(),
                command_line: read_text(memory, memory.read_u32(at + 0x228).into()),
                initramfs: (memory.read_u32(at + 0x218).into(), memory.read_u32(at + 0x21c).into()),
                rsdp: memory.read_u64(at + 0x70),
            }
        }
        // include/xen/interface/hvm/start_info.h
        Protocol::Pvh => {
            assert_eq!(memory.read_u32(at), 0x336e_c578);
            assert!(memory.read_u32(at + 4) >= 1, "the version that has a memory map");
            let (map, entries) = (memory.read_u64(at + 40), u64::from(memory.read_u32(at + 48)));
            let read = |at| (memory.read_u64(at), memory.read_u64(at + 8), memory.read_u32(at + 16));
            let modules = memory.read_u64(at + 16);
            let initramfs = match memory.read_u32(at + 12) {
                0 => (0, 0),
                _ => (memory.read_u64(modules), memory.read_u64(modules + 8)),
            };
            BootInformation {
                memory_map: (0..entries).map(|index| read(map + index * 24)).collect(),
                command_line: read_text(memory, memory.read_u64(at + 24)),
                initramfs,
                rsdp: memory.read_u64(at + 32),
            }
        }
    }
}

fn read_text(memory: &GuestMemory, address: u64) -> String {
    let bytes = memory.read_array::<4096>(address);
    let end = bytes.iter().position(|byte| *byte == 0).expect("the text ends");
    String::from_utf8(bytes[..end].to_vec()).expect("the text is ASCII")
}

fn each_elf_protocol(configure: impl Fn(&Vmm), check: impl Fn(&Puppet, &BootInformation)) {
    test(&[Need::Kvm], |scratch| {
        for protocol in [Protocol::Linux64, Protocol::Pvh] {
            let puppet = Puppet::start_with(scratch, protocol, &configure);
            assert_eq!(puppet.entered_by(), protocol);
            check(&puppet, &read_boot_information(&puppet));
        }
    });
}

fn machine(vcpu_count: u8, mem_size_mib: u64) -> Value {
    json!({ "vcpu_count": vcpu_count, "mem_size_mib": mem_size_mib })
}

#[test]
fn every_kind_of_image_boots() {
    test(&[Need::Kvm], |scratch| {
        for protocol in Protocol::ALL {
            let vmm = Vmm::with_guest(scratch, HELLO, protocol);
            vmm.start_guest();
            let (exit, console, log, _) = vmm.finish();
            assert_eq!((exit, console.as_str()), (Exit::Code(0), "hello from the guest\r\n"), "{protocol:?}: {log}");
        }
    });
}

#[test]
fn the_memory_map_covers_the_memory_and_leaves_the_hole() {
    for mib in [64, 3 * 1024, 3 * 1024 + 512] {
        each_elf_protocol(
            |vmm| vmm.put("/machine-config", &machine(1, mib)),
            |puppet, information| {
                let map = &information.memory_map;
                assert!(map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "ordered, no overlap: {map:x?}");
                let usable: Vec<_> = map.iter().filter(|entry| entry.2 == USABLE).collect();
                assert!(
                    usable.iter().all(|(start, size, _)| *start >= HOLE.end || start + size <= HOLE.start),
                    "{map:x?}"
                );
                let total: u64 = usable.iter().map(|entry| entry.1).sum();
                assert!(total <= mib * MIB && total > mib * MIB - MIB, "{total:#x} of {mib} MiB is usable: {map:x?}");
                let covers = |address| usable.iter().any(|(start, size, _)| (*start..start + size).contains(&address));
                assert!(covers(0x1000) && covers(MIB));
                assert!(!covers(0x9_fc00) && !covers(0xe_0000), "tables are no usable memory: {map:x?}");

                let above = (mib * MIB).saturating_sub(3 * GIB);
                let ends = [(mib * MIB).min(3 * GIB), if above > 0 { 4 * GIB + above } else { 0 }];
                for end in ends.into_iter().filter(|end| *end > 0) {
                    assert!(covers(end - 8) && !covers(end));
                    puppet.write_64(end - 8, 0x0123_4567_89ab_cdef);
                    assert_eq!(puppet.read_64(end - 8), 0x0123_4567_89ab_cdef, "at {end:#x}");
                    assert_eq!(puppet.read_64(end), u64::MAX, "no memory at {end:#x}");
                }
            },
        );
    }
}

#[test]
fn command_line_and_initramfs_are_handed_over() {
    let content: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    test(&[Need::Kvm], |scratch| {
        let initramfs = scratch.file("initramfs", &content);
        for protocol in [Protocol::Linux64, Protocol::Pvh] {
            let kernel = scratch.file("puppet", stockade_tests::guest::PUPPET.image(protocol));
            let puppet = Puppet::start_with(scratch, protocol, |vmm| {
                vmm.put(
                    "/boot-source",
                    &json!({ "kernel_image_path": kernel, "initrd_path": initramfs, "boot_args": "first=1 second" }),
                );
            });
            let information = read_boot_information(&puppet);
            assert!(information.command_line.starts_with("first=1 second"), "{}", information.command_line);
            let (address, size) = information.initramfs;
            assert_eq!(size, content.len() as u64);
            assert_eq!(address % 4096, 0);
            let mut bytes = vec![0; content.len()];
            puppet.memory().read(address, &mut bytes);
            assert!(bytes == content, "{protocol:?}");
        }
    });
}

#[test]
fn devices_are_announced_on_the_command_line_and_in_acpi() {
    test(&[Need::Kvm], |scratch| {
        let disk = scratch.file("disk", [0; 4096]);
        for protocol in [Protocol::Linux64, Protocol::Pvh] {
            let puppet = Puppet::start_with(scratch, protocol, |vmm| {
                vmm.put(
                    "/drives/a",
                    &json!({ "drive_id": "a", "path_on_host": disk, "is_root_device": true, "is_read_only": true }),
                );
                vmm.put("/entropy", &json!({}));
            });
            let information = read_boot_information(&puppet);
            let words: Vec<_> = information.command_line.split(' ').collect();
            assert!(words.contains(&"root=/dev/vda") && words.contains(&"ro"), "{words:?}");
            let devices = words.iter().filter(|word| word.starts_with("virtio_mmio.device=4K@0xc000")).count();
            assert_eq!(devices, 2, "{words:?}");
            let dsdt =
                acpi_tables(puppet.memory(), information.rsdp).into_iter().find(|table| table.starts_with(b"DSDT"));
            let dsdt = dsdt.expect("there is a DSDT");
            let announced = dsdt.windows(8).filter(|window| window == b"LNRO0005").count();
            assert_eq!(announced, 2);
        }
    });
}

#[test]
fn acpi_and_mp_tables_are_sound_and_list_the_processors() {
    for vcpus in [1, 5] {
        each_elf_protocol(
            |vmm| vmm.put("/machine-config", &machine(vcpus, 64)),
            |puppet, information| {
                let tables = acpi_tables(puppet.memory(), information.rsdp);
                for table in &tables {
                    let name = String::from_utf8_lossy(&table[..4]);
                    assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum of {name}");
                }
                let fadt = tables.iter().find(|table| table.starts_with(b"FACP")).expect("there is a FADT");
                let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
                assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
                assert_ne!(flags & 1 << 10, 0, "has a reset register");
                let madt = tables.iter().find(|table| table.starts_with(b"APIC")).expect("there is a MADT");
                assert_eq!(processors_in(madt), usize::from(vcpus));

                let low: [u8; 0x6_0400] = puppet.memory().read_array(0x9_fc00);
                let pointer =
                    low.windows(4).step_by(16).position(|window| window == b"_MP_").expect("there is an MP table");
                let pointer = &low[pointer * 16..];
                assert_eq!(pointer[..16].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
                let table = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
                assert_eq!(&puppet.memory().read_array::<4>(table.into()), b"PCMP");
            },
        );
    }
}

/// Counts the enabled local APIC entries of a MADT: ACPI 6.5, 5.2.12.
fn processors_in(madt: &[u8]) -> usize {
    let mut rest = &madt[44..];
    let mut count = 0;
    while let [kind, length, body @ ..] = rest {
        count += usize::from(*kind == 0 && body[2] & 1 != 0);
        rest = &rest[usize::from(*length)..];
    }
    count
}

/// Every table that the XSDT and the FADT lead to.
fn acpi_tables(memory: &GuestMemory, rsdp: u64) -> Vec<Vec<u8>> {
    assert_eq!(&memory.read_array::<8>(rsdp), b"RSD PTR ");
    let pointer = memory.read_array::<36>(rsdp);
    assert_eq!(pointer.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum of the RSDP");
    let table = |address: u64| {
        let mut bytes = vec![0; memory.read_u32(address + 4) as usize];
        memory.read(address, &mut bytes);
        bytes
    };
    let xsdt = table(memory.read_u64(rsdp + 24));
    assert!(xsdt.starts_with(b"XSDT"));
    let mut tables: Vec<_> =
        xsdt[36..].as_chunks::<8>().0.iter().map(|address| table(u64::from_le_bytes(*address))).collect();
    let fadt = tables.iter().find(|table| table.starts_with(b"FACP")).expect("there is a FADT");
    let dsdt = u64::from_le_bytes(fadt[140..148].try_into().unwrap());
    tables.push(table(dsdt));
    tables
}

#[test]
fn images_that_are_none_are_refused_in_words() {
    test(&[Need::Kvm], |scratch| {
        let elf = HELLO.image(Protocol::Pvh);
        let mut outside = elf.clone();
        // p_paddr of the first program header: 64 bytes of ELF header, 24 into it.
        outside[64 + 24..64 + 32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        let images =
            [Vec::new(), vec![0; 100], elf[..100].to_vec(), elf[..4000].to_vec(), outside, b"#!/bin/sh\n".to_vec()];
        for (index, image) in images.into_iter().enumerate() {
            let mut vmm = stockade_tests::vmm::Builder::new(scratch).start();
            let kernel = scratch.file("image", image);
            let mut response = vmm.request("PUT", "/boot-source", &json!({ "kernel_image_path": kernel }).to_string());
            if response.status == 204 {
                response = vmm.request("PUT", "/actions", &json!({ "action_type": "InstanceStart" }).to_string());
            }
            assert_eq!(response.status, 400, "image {index}");
            assert!(!response.fault_message().is_empty());
            assert!(vmm.is_running());
        }
    });
}
