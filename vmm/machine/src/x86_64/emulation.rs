//! Explains an instruction that KVM's emulator does not know.
//!
//! KVM gives its bytes in the exit's data (`emulation_failure` of `struct kvm_run`): flags in the first 64-bit word, then
//! a byte with the number of bytes, then at most 15 bytes. Kernels before 5.14 give none, and then they stay unknown: to
//! find them in guest memory, a vCPU's thread would need more of KVM than it has use for otherwise.

use std::fmt::Write;

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;

use super::{host::HostKind, instruction};

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

/// Says what the guest did, and what helps.
pub(crate) fn explain(host: HostKind, data: &[u64]) -> String {
    let bytes = reported_bytes(data).unwrap_or_default();
    describe(&bytes, host)
}

fn describe(bytes: &[u8], host: HostKind) -> String {
    let name = instruction::name(bytes).unwrap_or("an instruction");
    let mut text = format!("KVM can't emulate {name}, ");
    if bytes.is_empty() {
        text.push_str("the bytes of which are unknown");
    } else {
        text.push_str("the code from there on is");
        for byte in bytes {
            // Writing to a string can't fail.
            let _ = write!(text, " {byte:02x}");
        }
    }
    text.push_str(match host {
        HostKind::Emulated => {
            "; on this host KVM emulates the guest's kernel: boot one that is made for it (tools/guest), or use a host with \
             VT-x or AMD-V"
        }
        HostKind::Hardware => {
            "; it accesses device registers, or an address where nothing is: look for a wild pointer or jump in the guest, \
             or a driver that accesses a device by other means than mov"
        }
    });
    text
}

fn reported_bytes(data: &[u64]) -> Option<Vec<u8>> {
    let (flags, rest) = data.split_first()?;
    if flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0 {
        return None;
    }
    let bytes: Vec<u8> = rest.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (&size, bytes) = bytes.split_first()?;
    let size = usize::from(size).min(LONGEST);
    bytes.get(..size).filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_bytes_that_kvm_reports() {
        let words =
            |bytes: [u8; 16]| [bytes[..8].try_into().unwrap(), bytes[8..].try_into().unwrap()].map(u64::from_le_bytes);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[3, 0x0f, 0x01, 0xca]);
        let data: Vec<u64> = [1].into_iter().chain(words(bytes)).collect();
        assert_eq!(reported_bytes(&data).unwrap(), [0x0f, 0x01, 0xca]);
        assert_eq!(reported_bytes(&[0, data[1], data[2]]), None, "the flag says that there are none");
        for data in [&[][..], &[1], &[1, 0], &data[..1]] {
            assert_eq!(reported_bytes(data), None);
        }
        bytes[0] = 0xff;
        let data: Vec<u64> = [1].into_iter().chain(words(bytes)).collect();
        assert_eq!(reported_bytes(&data).unwrap().len(), LONGEST);
        assert_eq!(reported_bytes(&data[..2]), None, "shorter than it says");
    }

    #[test]
    fn says_what_to_do() {
        let text = describe(&[0x0f, 0x01, 0xca], HostKind::Emulated);
        assert!(text.starts_with("KVM can't emulate clac, the code from there on is 0f 01 ca; on this host"), "{text}");
        assert!(
            describe(&[], HostKind::Hardware).contains("an instruction, the bytes of which are unknown; it accesses")
        );
    }
}
