//! The cases of OpenBSD's regress/usr.sbin/vmd/config, under the same names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they expect, and fail by panicking"
)]

mod fixture;

use stockade_config::{Style, Verbosity, check};

fn run(options: &str) -> (u8, String) {
    let mut host = fixture::host();
    host.add("/x.conf", options).add("/bsd.rd", "x").add("/disk.img", "x").add("/cd.iso", "x");
    for number in 0..5 {
        host.add(format!("/{number}.img"), "x");
    }
    let mut output = Vec::new();
    let verdict = check(&host, &fixture::input("/x.conf"), Verbosity::Brief, Style::Plain, &mut output).unwrap();
    (verdict.exit_code(), String::from_utf8(output).unwrap())
}

fn pass(text: &str) -> String {
    let (code, output) = run(text);
    assert_eq!(code, 0, "{output}");
    assert!(output.ends_with("configuration OK\n"), "{output}");
    output
}

fn fail(text: &str, message: &str) {
    let (code, output) = run(text);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains(message) && !output.contains("configuration OK"), "{output}");
}

fn vm(options: &str) -> String {
    format!("ramdisk=\"/bsd.rd\"\nvm \"x\" {{\n    boot $ramdisk\n    {options}\n    disable\n}}\n")
}

#[test]
fn pass_boot_keyword() {
    assert_eq!(pass(&vm("memory 1G")), "configuration OK\n");
}

#[test]
fn pass_memory_round() {
    assert!(pass(&vm("memory 1073741823")).starts_with("warning: memory size rounded to 1023M\n"));
}

#[test]
fn pass_memory_just_enough() {
    assert_eq!(pass(&vm("memory 1048576")), "configuration OK\n");
}

#[test]
fn pass_cdrom_keyword() {
    pass("vm \"x\" {\n    cdrom \"/cd.iso\"\n}\n");
}

#[test]
fn pass_format_keyword() {
    pass(&vm("disk \"/disk.img\" format \"raw\"\n disk \"/0.img\" format QCOW2"));
}

#[test]
fn fail_kernel_keyword() {
    fail("ramdisk=\"/bsd.rd\"\nvm \"x\" {\n    kernel $ramdisk\n}\n", "syntax error: unexpected 'kernel'");
}

#[test]
fn fail_too_few_ram() {
    fail(&vm("memory 1048575"), "failed to parse size: 1048575");
    fail(&vm("memory 1048575"), "size must be at least one megabyte");
}

#[test]
fn fail_vm_name_too_long() {
    fail(&format!("vm \"{}\" {{\n    boot /bsd.rd\n}}\n", "a".repeat(64)), "vm name too long");
}

#[test]
fn fail_too_many_ifs() {
    fail(&vm("interfaces 5"), "too many interfaces: 5");
}

#[test]
fn fail_boot_name_too_long() {
    fail(&format!("vm \"x\" {{\n    boot \"/{}\"\n}}\n", "a".repeat(4095)), "kernel name too long");
}

#[test]
fn fail_disk_path_too_long() {
    fail(&vm(&format!("disk \"/{}\"", "a".repeat(4095))), "disk path too long");
}

#[test]
fn fail_too_many_disks() {
    let disks: Vec<_> = (0..5).map(|number| format!("disk /{number}.img")).collect();
    fail(&vm(&disks.join("\n")), "too many disks");
}

#[test]
fn fail_switch_no_interface() {
    fail("switch \"x\" {\n    up\n}\n", "switch \"x\" is missing interface name");
}

#[test]
fn fail_switch_no_add() {
    fail("switch \"x\" {\n    interface br0\n    add vether0\n}\n", "syntax error: unexpected 'add'");
}

#[test]
fn fail_cdrom_name_too_long() {
    fail(&vm(&format!("cdrom \"/{}\"", "a".repeat(4095))), "cdrom name too long");
}

#[test]
fn fail_bad_format() {
    fail(&vm("disk /disk.img format vhd"), "unrecognized disk format vhd");
}

#[test]
fn fail_missing_format() {
    fail(&vm("disk /disk.img format"), "syntax error: unexpected end of line");
}
