//! Names of the instructions that KVM's emulator is known to lack. Not a disassembler: what isn't in the table has no name.

/// The name of the instruction at the start of `bytes`.
pub(crate) fn name(bytes: &[u8]) -> Option<&'static str> {
    let (prefix, rest) = skip_prefixes(bytes);
    match *rest {
        [0x0f, 0x01, byte, ..] => group_0f01(byte),
        [0x0f, 0xae, byte, ..] => group_0fae(prefix, byte),
        [0x0f, 0xc7, byte, ..] => group_0fc7(byte),
        [0x0f, 0x38, byte, ..] => three_byte(prefix, byte),
        [0x0f, opcode, ..] => two_byte(prefix, opcode),
        [0x9b, ..] => Some("fwait"),
        [0xcc, ..] => Some("int3"),
        [0xd8..=0xdf, ..] => Some("an x87 instruction"),
        [0xc4 | 0xc5, ..] => Some("an AVX or BMI instruction"),
        [0x62, ..] => Some("an AVX-512 instruction"),
        _ => None,
    }
}

/// The prefix that selects among instructions with the same opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    OperandSize,
    Repne,
    Rep,
}

fn skip_prefixes(mut bytes: &[u8]) -> (Prefix, &[u8]) {
    let mut prefix = Prefix::None;
    while let [byte, rest @ ..] = bytes {
        match byte {
            0x66 if prefix == Prefix::None => prefix = Prefix::OperandSize,
            0xf2 => prefix = Prefix::Repne,
            0xf3 => prefix = Prefix::Rep,
            0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 => {}
            _ => break,
        }
        bytes = rest;
    }
    (prefix, bytes)
}

fn group_0f01(byte: u8) -> Option<&'static str> {
    Some(match byte {
        0xc1 => "vmcall",
        0xc8 => "monitor",
        0xc9 => "mwait",
        0xca => "clac",
        0xcb => "stac",
        0xd0 => "xgetbv",
        0xd1 => "xsetbv",
        0xd6 => "xtest",
        0xd9 => "vmmcall",
        0xee => "rdpkru",
        0xef => "wrpkru",
        0xf9 => "rdtscp",
        _ => return None,
    })
}

fn group_0fae(prefix: Prefix, byte: u8) -> Option<&'static str> {
    let in_memory = byte < 0xc0;
    Some(match (prefix, byte >> 3 & 7, in_memory) {
        (Prefix::None, 2, true) => "ldmxcsr",
        (Prefix::None, 3, true) => "stmxcsr",
        (Prefix::None, 4, true) => "xsave",
        (Prefix::None, 5, true) => "xrstor",
        (Prefix::None, 6, true) => "xsaveopt",
        (Prefix::OperandSize, 6, true) => "clwb",
        (Prefix::Rep, 5, false) => "incssp",
        _ => return None,
    })
}

fn group_0fc7(byte: u8) -> Option<&'static str> {
    let in_memory = byte < 0xc0;
    Some(match (byte >> 3 & 7, in_memory) {
        (1, true) => "cmpxchg16b",
        (3, true) => "xrstors",
        (4, true) => "xsavec",
        (5, true) => "xsaves",
        (7, false) => "rdpid",
        _ => return None,
    })
}

fn three_byte(prefix: Prefix, opcode: u8) -> Option<&'static str> {
    Some(match (prefix, opcode) {
        (Prefix::OperandSize, 0x82) => "invpcid",
        (Prefix::Repne, 0xf0 | 0xf1) => "crc32",
        (Prefix::OperandSize, 0xf6) => "adcx",
        (Prefix::Rep, 0xf6) => "adox",
        (Prefix::None, 0xf9) => "movdiri",
        (_, 0xdb..=0xdf) => "an AES instruction",
        _ => "an SSE instruction",
    })
}

fn two_byte(prefix: Prefix, opcode: u8) -> Option<&'static str> {
    Some(match (prefix, opcode) {
        (_, 0x00) => "verw",
        (_, 0x02) => "lar",
        (_, 0x03) => "lsl",
        (Prefix::Rep, 0xb8) => "popcnt",
        (Prefix::Rep, 0xbc) => "tzcnt",
        (Prefix::Rep, 0xbd) => "lzcnt",
        (Prefix::Rep, 0x1e) => "rdssp",
        (_, 0x3a | 0x12..=0x17 | 0x28..=0x2f | 0x50..=0x7f | 0xc2..=0xc6 | 0xd0..=0xff) => "an SSE instruction",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_the_emulator_lacks() {
        for (bytes, expected) in [
            (&[0x0f, 0xae, 0x2f][..], Some("xrstor")),
            (&[0x48, 0x0f, 0xae, 0x2f], Some("xrstor")),
            (&[0x48, 0x0f, 0xc7, 0x1f], Some("xrstors")),
            (&[0xf0, 0x48, 0x0f, 0xc7, 0x0e], Some("cmpxchg16b")),
            (&[0x0f, 0x01, 0xca], Some("clac")),
            (&[0xf3, 0x48, 0x0f, 0xb8, 0xc7], Some("popcnt")),
            (&[0x0f, 0x01, 0xf9], Some("rdtscp")),
            (&[0x66, 0x0f, 0x38, 0x82, 0x07], Some("invpcid")),
            (&[0x66, 0x0f, 0xae, 0x30], Some("clwb")),
            (&[0x66, 0x0f, 0x6f, 0x07], Some("an SSE instruction")),
            (&[0xc5, 0xf8, 0x77], Some("an AVX or BMI instruction")),
            (&[0xdb, 0xe3], Some("an x87 instruction")),
            (&[0xcc], Some("int3")),
            (&[0x90], None),
            (&[0x66], None),
            (&[0x0f], None),
            (&[], None),
        ] {
            assert_eq!(name(bytes), expected, "{bytes:02x?}");
        }
    }
}
