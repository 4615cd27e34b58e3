//! Names, sizes and address prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name of a VM: 1 to [`VmName::MAX_BYTES`] ASCII letters, digits, `.`, `-` and `_`; the first is a letter or a digit, and not all are digits,
/// because digits alone are the id of a VM on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// Most bytes of a name.
    pub const MAX_BYTES: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a VM can't have this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// No character at all.
    #[error("vm name is empty")]
    Empty,
    /// More than [`VmName::MAX_BYTES`].
    #[error("vm name too long")]
    TooLong,
    /// `-`, `.` or `_` comes first.
    #[error("vm name starts with '{0}'")]
    Start(char),
    /// A character that no name has.
    #[error("vm name contains {0:?}")]
    Character(char),
    /// It would be taken for an id.
    #[error("vm name is a number")]
    AllDigits,
}

impl InvalidName {
    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Empty | Self::Character(_) => "use letters, digits, '.', '-' and '_'",
            Self::TooLong => "use at most 63 characters",
            Self::Start(_) => "start it with a letter or a digit",
            Self::AllDigits => "use at least one letter: on the command line, digits alone are the id of a vm",
        }
    }
}

impl FromStr for VmName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_');
        let first = text.chars().next().ok_or(InvalidName::Empty)?;
        if text.len() > Self::MAX_BYTES {
            Err(InvalidName::TooLong)
        } else if let Some(character) = text.chars().find(bad) {
            Err(InvalidName::Character(character))
        } else if !first.is_ascii_alphanumeric() {
            Err(InvalidName::Start(first))
        } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
            Err(InvalidName::AllDigits)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl TryFrom<String> for VmName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An amount of memory: a whole number of MiB, 1 to [`MemorySize::MAX_MIB`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MemorySize(u32);

impl MemorySize {
    /// Most memory, MiB: 16 TiB.
    pub const MAX_MIB: u32 = 16 << 20;
    /// What a VM has if nothing is said.
    pub const DEFAULT: Self = Self(512);

    /// `mib` MiB, if that can be had.
    pub const fn from_mib(mib: u32) -> Option<Self> {
        if 1 <= mib && mib <= Self::MAX_MIB { Some(Self(mib)) } else { None }
    }

    /// The size in MiB.
    pub const fn mib(self) -> u32 {
        self.0
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

impl TryFrom<u32> for MemorySize {
    type Error = &'static str;

    fn try_from(mib: u32) -> Result<Self, Self::Error> {
        Self::from_mib(mib).ok_or("memory is 1 MiB to 16 TiB")
    }
}

impl From<MemorySize> for u32 {
    fn from(size: MemorySize) -> Self {
        size.0
    }
}

impl fmt::Display for MemorySize {
    /// As vm.conf has it: `512M`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}M", self.0)
    }
}

/// An address with the number of leading bits that count; the others are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefix<A> {
    /// The address.
    pub address: A,
    /// How many bits count.
    pub length: u8,
}

/// Why this is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPrefix {
    /// No numeric address.
    #[error("invalid format")]
    Format,
    /// The length is no number, or out of range.
    #[error("invalid length")]
    Length,
    /// Bits beyond the length are set.
    #[error("bad mask")]
    BadMask,
}

impl FromStr for Prefix<Ipv4Addr> {
    type Err = InvalidPrefix;

    /// `A.B.C.D[/N]`, where N is 1 to 16 (the rest is for ids of VMs and interfaces), 16 if it is absent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = split(text, 1..=16, 16)?;
        let address: Ipv4Addr = address.parse().map_err(|_| InvalidPrefix::Format)?;
        let host_bits = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        if address.to_bits() & host_bits == 0 { Ok(Self { address, length }) } else { Err(InvalidPrefix::BadMask) }
    }
}

impl FromStr for Prefix<Ipv6Addr> {
    type Err = InvalidPrefix;

    /// `A::[/N]`, where N is 0 to 64, 64 if it is absent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = split(text, 0..=64, 64)?;
        let address: Ipv6Addr = address.parse().map_err(|_| InvalidPrefix::Format)?;
        let host_bits = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        if address.to_bits() & host_bits == 0 { Ok(Self { address, length }) } else { Err(InvalidPrefix::BadMask) }
    }
}

fn split(text: &str, range: std::ops::RangeInclusive<u8>, absent: u8) -> Result<(&str, u8), InvalidPrefix> {
    let Some((address, length)) = text.rsplit_once('/') else { return Ok((text, absent)) };
    match length.parse() {
        Ok(length) if range.contains(&length) => Ok((address, length)),
        _ => Err(InvalidPrefix::Length),
    }
}

impl<A: Copy + Into<IpAddr>> fmt::Display for Prefix<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address.into(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0a", "a.b-c_d", "x-1", &"x".repeat(63)] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
        let bad = [
            ("", InvalidName::Empty),
            ("12", InvalidName::AllDigits),
            ("-a", InvalidName::Start('-')),
            (".a", InvalidName::Start('.')),
            ("_a", InvalidName::Start('_')),
            ("a/b", InvalidName::Character('/')),
            ("a b", InvalidName::Character(' ')),
            ("ä", InvalidName::Character('ä')),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<VmName>(), Err(error), "{text}");
        }
        assert_eq!("x".repeat(64).parse::<VmName>(), Err(InvalidName::TooLong));
    }

    #[test]
    fn prefixes() {
        let four = |text: &str| text.parse::<Prefix<Ipv4Addr>>();
        assert_eq!(four("100.64.0.0/10").unwrap().to_string(), "100.64.0.0/10");
        assert_eq!(four("10.1.0.0").unwrap().to_string(), "10.1.0.0/16");
        for (text, error) in [
            ("10.0.0.0/0", InvalidPrefix::Length),
            ("10.0.0.0/17", InvalidPrefix::Length),
            ("10.0.0.0/x", InvalidPrefix::Length),
            ("10.1.0.0/8", InvalidPrefix::BadMask),
            ("10.1.1.0", InvalidPrefix::BadMask),
            ("host/8", InvalidPrefix::Format),
            ("fd00::/8", InvalidPrefix::Format),
        ] {
            assert_eq!(four(text), Err(error), "{text}");
        }
        let six = |text: &str| text.parse::<Prefix<Ipv6Addr>>();
        assert_eq!(six("fd00:1::/32").unwrap().to_string(), "fd00:1::/32");
        assert_eq!(six("::/0").unwrap().to_string(), "::/0");
        assert_eq!(six("fd00::").unwrap().length, 64);
        assert_eq!(six("fd00::/65"), Err(InvalidPrefix::Length));
        assert_eq!(six("fd00::1"), Err(InvalidPrefix::BadMask));
        assert_eq!(six("1.2.3.4"), Err(InvalidPrefix::Format));
    }
}
