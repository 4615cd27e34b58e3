//! Names, numbers and environment entries.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use stockade_jailer::plan::Layer;

use super::InvalidValue;

/// Name of a virtual machine: 1 to 64 letters, digits and `-`, not starting with `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmName(String);

impl VmName {
    /// Most characters in a name.
    pub const MAX_LENGTH: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that is not in use, most likely: `run-` and ten random letters and digits.
    pub fn random() -> std::io::Result<Self> {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut random = [0_u8; 10];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
        let letters = random.iter().filter_map(|byte| ALPHABET.get(usize::from(byte % 32)));
        Ok(Self(std::iter::once("run-").map(String::from).chain(letters.map(|&l| char::from(l).to_string())).collect()))
    }
}

impl FromStr for VmName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=Self::MAX_LENGTH).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new("not a name", "use 1 to 64 letters, digits and '-', starting with a letter or digit"))
        }
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Number of virtual processors, 1 to 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(u8);

impl Cpus {
    /// Most virtual processors.
    pub const MAX: u8 = 32;

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Cpus {
    fn default() -> Self {
        Self(1)
    }
}

impl FromStr for Cpus {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) if (1..=Self::MAX).contains(&number) => Ok(Self(number)),
            _ => Err(InvalidValue::new("not a number of processors", "use 1 to 32")),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Memory of a guest: a whole number of MiB, at least [`MemorySize::MIN_MIB`].
///
/// Written as a number with `M` (MiB, also without a suffix) or `G` (GiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(u32);

impl MemorySize {
    /// Least memory with which a Linux guest gets anywhere, MiB.
    pub const MIN_MIB: u32 = 32;
    /// Most memory, MiB: 16 TiB.
    pub const MAX_MIB: u32 = 16 << 20;

    /// The size in MiB.
    pub const fn mib(self) -> u32 {
        self.0
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

impl Default for MemorySize {
    fn default() -> Self {
        Self(256)
    }
}

impl FromStr for MemorySize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let suffix = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(suffix);
        let unit_mib = match suffix.to_ascii_lowercase().as_str() {
            "" | "m" | "mib" => Some(1),
            "g" | "gib" => Some(1024),
            _ => None,
        };
        let mib = number.parse::<u32>().ok().zip(unit_mib).and_then(|(number, unit)| number.checked_mul(unit));
        match mib {
            Some(mib) if (Self::MIN_MIB..=Self::MAX_MIB).contains(&mib) => Ok(Self(mib)),
            _ => Err(InvalidValue::new("not a memory size", "use 32M to 16384G, for instance 256M or 2G")),
        }
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}M", self.0)
    }
}

/// A `NAME=VALUE` entry of the command's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentEntry(Vec<u8>);

impl EnvironmentEntry {
    /// `NAME=VALUE`, or `NAME` alone to take the value that `lookup` finds for it.
    pub fn parse(text: &OsStr, lookup: impl FnOnce(&OsStr) -> Option<OsString>) -> Result<Self, InvalidValue> {
        let bytes = text.as_bytes();
        let name_length = bytes.iter().position(|&byte| byte == b'=');
        if bytes.is_empty() || name_length == Some(0) {
            return Err(InvalidValue::new("the name is empty", "write NAME=VALUE, or NAME to pass on your own value"));
        }
        if name_length.is_some() {
            return Ok(Self(bytes.to_vec()));
        }
        let Some(value) = lookup(text) else {
            return Err(InvalidValue::new("not set in this environment", "write NAME=VALUE, or set it first"));
        };
        let mut entry = bytes.to_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        Ok(Self(entry))
    }

    /// The entry as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The layer of the jail that is called `text`.
pub fn parse_layer(text: &str) -> Result<Layer, InvalidValue> {
    let layer = serde_json::from_value(serde_json::Value::from(text));
    layer.map_err(|_| {
        InvalidValue::new(
            "no such layer",
            "the layers are cgroup, namespaces, root, resource-limits, capabilities, uid, landlock and seccomp",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "run-1", "0", &"x".repeat(64)] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "a/b", "..", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
        let (one, other) = (VmName::random().unwrap(), VmName::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
    }

    #[test]
    fn memory_sizes() {
        for (text, mib) in [("256M", 256), ("32", 32), ("2G", 2048), ("1gib", 1024), ("16384G", 16 << 20)] {
            assert_eq!(text.parse::<MemorySize>().unwrap().mib(), mib, "{text}");
        }
        for bad in ["", "M", "31M", "-1", "1.5G", "256K", "16385G", "99999999999999999999G", "256 M"] {
            assert!(bad.parse::<MemorySize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus() {
        assert_eq!("32".parse::<Cpus>().unwrap().get(), 32);
        for bad in ["0", "33", "-1", "two", "1.5", ""] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn environment_entries() {
        let host = |name: &OsStr| (name == "HOST").then(|| OsString::from("value=x"));
        let parse = |text: &str| EnvironmentEntry::parse(OsStr::new(text), host);
        assert_eq!(parse("A=b=c").unwrap().as_bytes(), b"A=b=c");
        assert_eq!(parse("A=").unwrap().as_bytes(), b"A=");
        assert_eq!(parse("HOST").unwrap().as_bytes(), b"HOST=value=x");
        for bad in ["", "=x", "OTHER"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn layers_by_name() {
        for layer in Layer::ALL {
            let name = serde_json::to_value(layer).unwrap();
            assert_eq!(parse_layer(name.as_str().unwrap()), Ok(layer));
        }
        let error = parse_layer("everything").unwrap_err().to_string();
        for layer in Layer::ALL {
            assert!(error.contains(serde_json::to_value(layer).unwrap().as_str().unwrap()), "{error}");
        }
    }
}
