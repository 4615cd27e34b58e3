//! Filters as a thread installs them.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use seccomp_filters::{Role, sock_filter};

/// Instructions of a filter; the kernel takes no more (BPF_MAXINSNS).
const MOST_INSTRUCTIONS: u64 = 4096;
/// Bytes of a `struct sock_filter`, and of a word that is read from another process.
const WORD: u64 = 8;

/// The filter behind a `struct sock_fprog` at `address` in the thread's memory: an instruction each word.
pub fn read(tid: Pid, address: u64) -> Result<Vec<u64>, Errno> {
    let length = word(tid, address)? & u64::from(u16::MAX);
    let first = word(tid, address.wrapping_add(WORD))?;
    (0..length.min(MOST_INSTRUCTIONS)).map(|index| word(tid, first.wrapping_add(index * WORD))).collect()
}

fn word(tid: Pid, address: u64) -> Result<u64, Errno> {
    Ok(ptrace::read(tid, address as ptrace::AddressType)?.cast_unsigned())
}

/// The role whose filter this is.
pub fn role(filter: &[u64]) -> Option<Role> {
    Role::ALL.into_iter().find(|role| role.filter().iter().map(encode).eq(filter.iter().copied()))
}

/// Whether it is the filter of what nobody may do, which no role has and no rule is measured of.
pub fn is_refusal(filter: &[u64]) -> bool {
    seccomp_filters::refusal().is_ok_and(|refusal| refusal.iter().map(encode).eq(filter.iter().copied()))
}

/// A `struct sock_filter` as it is in memory: code, jt, jf, k (linux/filter.h).
fn encode(&sock_filter { code, jt, jf, k }: &sock_filter) -> u64 {
    u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_known_by_its_filter() {
        for role in Role::ALL {
            let filter: Vec<u64> = role.filter().iter().map(encode).collect();
            assert_eq!(super::role(&filter), Some(role));
            assert_eq!(super::role(&filter[1..]), None);
            assert!(!is_refusal(&filter));
        }
        let refusal: Vec<u64> = seccomp_filters::refusal().unwrap().iter().map(encode).collect();
        assert!(is_refusal(&refusal) && super::role(&refusal).is_none());
    }
}
