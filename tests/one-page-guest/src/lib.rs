//! The smallest guest that shows that it runs: one page that writes a byte to the serial port and waits for interrupts that
//! never come. And one that works and shows that it does.

/// The byte. No vmm writes it by itself.
pub const FIRST_BYTE: u8 = 0x02;

/// Where the page goes.
const ADDRESS: u64 = 0x10_0000;
const ELF_HEADER_BYTES: u16 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;
const PAGE: u64 = 4096;

#[rustfmt::skip]
const CODE: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov $0x3f8, %dx: data register of COM1
    0xb0, FIRST_BYTE,       // mov $FIRST_BYTE, %al
    0xee,                   // out %al, %dx
    0xfb,                   // sti: a halt that an interrupt could end is no end of the guest
    0xf4,                   // hlt
    0xeb, 0xfd,             // jmp to the hlt
];

/// A guest that works: it writes [`FIRST_BYTE`] whenever it has counted down from `rounds`, for ever.
pub fn worker(rounds: u32) -> Vec<u8> {
    // mov $0x3f8, %dx; mov $rounds, %ecx
    let mut code = vec![0x66, 0xba, 0xf8, 0x03, 0xb9];
    code.extend(rounds.to_le_bytes());
    #[rustfmt::skip]
    code.extend([
        0xff, 0xc9,             // dec %ecx
        0x75, 0xfc,             // jnz to the dec
        0xb0, FIRST_BYTE, 0xee, // mov $FIRST_BYTE, %al; out %al, %dx
        0xeb, 0xf2,             // jmp to the mov of rounds
    ]);
    executable(&code)
}

/// The guest that halts, as an ELF executable for x86-64 that a vmm enters by the 64-bit Linux boot protocol.
pub fn image() -> Vec<u8> {
    executable(CODE)
}

fn executable(code: &[u8]) -> Vec<u8> {
    let code_at = u64::from(ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES);
    // Half-words of the ELF header that say nothing of the guest: no flags, no sections.
    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    image.extend([2_u16, 62].into_iter().flat_map(u16::to_le_bytes)); // ET_EXEC, EM_X86_64
    image.extend(1_u32.to_le_bytes()); // EV_CURRENT
    image.extend([ADDRESS, ELF_HEADER_BYTES.into(), 0].into_iter().flat_map(u64::to_le_bytes));
    image.extend(0_u32.to_le_bytes());
    image.extend([ELF_HEADER_BYTES, PROGRAM_HEADER_BYTES, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    image.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes)); // PT_LOAD, readable and executable
    let size = code.len() as u64;
    image.extend([code_at, ADDRESS, ADDRESS, size, PAGE, PAGE].into_iter().flat_map(u64::to_le_bytes));
    image.extend_from_slice(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_have_their_sizes() {
        assert_eq!(image().len(), 64 + 56 + CODE.len());
    }
}
