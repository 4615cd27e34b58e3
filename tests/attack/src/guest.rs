//! What the vmm runs whose threads are taken over: one page that writes a byte to the serial port and waits for interrupts that
//! never come.

/// The byte. No vmm writes it by itself.
pub(crate) const FIRST_BYTE: u8 = 0x02;

const ADDRESS: u64 = 0x10_0000;
const HEADER_BYTES: u16 = 64;
const SEGMENT_BYTES: u16 = 56;

#[rustfmt::skip]
const CODE: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov $0x3f8, %dx: data register of COM1
    0xb0, FIRST_BYTE,       // mov $FIRST_BYTE, %al
    0xee,                   // out %al, %dx
    0xfb,                   // sti
    0xf4,                   // hlt
    0xeb, 0xfd,             // jmp to the hlt
];

/// An ELF executable that a vmm enters by the 64-bit Linux boot protocol.
pub(crate) fn image() -> Vec<u8> {
    let (code_at, size) = (u64::from(HEADER_BYTES + SEGMENT_BYTES), CODE.len() as u64);
    // ELF64, little-endian; ET_EXEC for x86-64, version 1.
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    image.extend([ADDRESS, HEADER_BYTES.into(), 0].into_iter().flat_map(u64::to_le_bytes));
    image.extend([0, 0, HEADER_BYTES, SEGMENT_BYTES, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // PT_LOAD, readable and executable.
    image.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes));
    image.extend([code_at, ADDRESS, ADDRESS, size, 4096, 4096].into_iter().flat_map(u64::to_le_bytes));
    image.extend_from_slice(CODE);
    image
}
