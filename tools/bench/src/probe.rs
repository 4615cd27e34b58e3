//! The program that takes the vmm's place when jailers alone are measured: it says one byte and exits.
//!
//! It is one page of code in a file as large as a vmm, because a jailer may copy the file, which is part of its work. The rest of
//! the file is never read when it is executed.

/// What it says.
pub const BYTE: u8 = 0x2a;

const ADDRESS: u64 = 0x40_0000;
const ELF_HEADER_BYTES: u16 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;

#[rustfmt::skip]
const CODE: &[u8] = &[
    0x6a, BYTE,                   // push $BYTE
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov $1, %eax: write
    0xbf, 0x01, 0x00, 0x00, 0x00, // mov $1, %edi: standard output
    0x48, 0x89, 0xe6,             // mov %rsp, %rsi
    0xba, 0x01, 0x00, 0x00, 0x00, // mov $1, %edx
    0x0f, 0x05,                   // syscall
    0xb8, 0xe7, 0x00, 0x00, 0x00, // mov $231, %eax: exit_group
    0x31, 0xff,                   // xor %edi, %edi
    0x0f, 0x05,                   // syscall
];

/// A static ELF executable for x86-64, filled up to `bytes` with what does not compress.
pub fn image(bytes: usize) -> Vec<u8> {
    let code_at = u64::from(ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES);
    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    image.extend([2_u16, 62].into_iter().flat_map(u16::to_le_bytes)); // ET_EXEC, EM_X86_64
    image.extend(1_u32.to_le_bytes()); // EV_CURRENT
    image.extend([ADDRESS + code_at, ELF_HEADER_BYTES.into(), 0].into_iter().flat_map(u64::to_le_bytes));
    image.extend(0_u32.to_le_bytes());
    image.extend([ELF_HEADER_BYTES, PROGRAM_HEADER_BYTES, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    image.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes)); // PT_LOAD, readable and executable
    let size = code_at + CODE.len() as u64;
    image.extend([0, ADDRESS, ADDRESS, size, size, 4096].into_iter().flat_map(u64::to_le_bytes));
    image.extend_from_slice(CODE);
    let mut state = 1_u32;
    image.resize_with(bytes.max(image.len()), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    image
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn it_says_its_byte_and_exits() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("probe");
        std::fs::write(&program, image(100_000)).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new(program).output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, [BYTE]);
    }
}
