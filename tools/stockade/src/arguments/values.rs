//! Values of options: words that may be shortened, sizes of disks, and how a disk or an interface is written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use stockade_api::request::{BootDevice, ResetScope, Verbosity};
use stockade_supervisor::request::InvalidValue;

/// A parser of words that may be shortened, as verbs may.
macro_rules! words {
    ($name:ident -> $type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        /// The value that a word means.
        pub fn $name(text: &str) -> Result<$type, InvalidValue> {
            Ok(match whole(text, &[$($word),*])? {
                $($word => $value,)*
                _ => return Err(none_of(&[$($word),*])),
            })
        }
    };
}

words! { reset_scope -> ResetScope { "all" => ResetScope::All, "switches" => ResetScope::Switches, "vms" => ResetScope::Vms } }
words! { verbosity -> Verbosity { "brief" => Verbosity::Brief, "verbose" => Verbosity::Verbose } }
words! { boot_device -> BootDevice { "disk" => BootDevice::Disk, "cdrom" => BootDevice::Cdrom, "net" => BootDevice::Net } }

/// The one of `words` that `text` is or begins.
fn whole<'a>(text: &str, words: &[&'a str]) -> Result<&'a str, InvalidValue> {
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Ok(word);
    }
    let mut begun = words.iter().filter(|word| !text.is_empty() && word.starts_with(text));
    match (begun.next(), begun.next()) {
        (Some(word), None) => Ok(word),
        (Some(one), Some(other)) => Err(InvalidValue::new(format!("it could be {one} or {other}"), "write more of it")),
        (None, _) => Err(none_of(words)),
    }
}

fn none_of(words: &[&str]) -> InvalidValue {
    InvalidValue::new(format!("not one of {}", words.join(", ")), "write one of them, or the beginning of one")
}

/// Name or number of a virtual machine: anything but nothing.
pub fn reference(text: &str) -> Result<stockade_api::VmReference, InvalidValue> {
    match text.parse() {
        Ok(reference) if !text.is_empty() => Ok(reference),
        _ => Err(InvalidValue::new("empty", "give the name or the number of a virtual machine")),
    }
}

/// Size of a disk: a positive multiple of [`DiskSize::SECTOR_BYTES`].
///
/// Written as a number with B (bytes, also without a suffix), K, M, G or T.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSize(u64);

impl DiskSize {
    /// What disks are made of, bytes.
    pub const SECTOR_BYTES: u64 = 512;
    /// Most bytes: the largest file of ext4 with blocks of 4 KiB, 16 TiB.
    const MAX_BYTES: u64 = 16 << 40;

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for DiskSize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match bytes(text, 1) {
            Some(bytes) if !bytes.is_multiple_of(Self::SECTOR_BYTES) => {
                Err(InvalidValue::new("not a whole number of sectors", "use a multiple of 512 bytes, for instance 10G"))
            }
            Some(bytes) if (1..=Self::MAX_BYTES).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(InvalidValue::new("not the size of a disk", "use 512 to 16T, for instance 100M or 10G")),
        }
    }
}

/// Memory of a guest in MiB: a number with K, M (also without a suffix), G or T. How much is too much is the daemon's to say.
pub fn memory_mib(text: &str) -> Result<u64, InvalidValue> {
    const MIB: u64 = 1 << 20;
    match bytes(text, MIB) {
        Some(bytes) if bytes > 0 && bytes.is_multiple_of(MIB) => Ok(bytes / MIB),
        _ => Err(InvalidValue::new("not a memory size", "use a whole number of MiB, for instance 256M or 2G")),
    }
}

/// The number of bytes that is written as `text`, in which a number without a suffix counts `unit` bytes.
fn bytes(text: &str, unit: u64) -> Option<u64> {
    let suffix = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(suffix);
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// An image that is to be made: `[FORMAT:]PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Its format: what is written before the path, or else what the name ends in, or else raw.
    pub format: ImageFormat,
    /// Where.
    pub path: PathBuf,
}

impl NewImage {
    /// Parses `[raw:|qcow2:]PATH`.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidValue> {
        let bytes = text.as_bytes();
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let image = match (bytes.strip_prefix(b"raw:"), bytes.strip_prefix(b"qcow2:")) {
            (Some(rest), _) => Self { format: ImageFormat::Raw, path: path(rest) },
            (_, Some(rest)) => Self { format: ImageFormat::Qcow2, path: path(rest) },
            _ => Self { format: by_ending(Path::new(text)), path: path(bytes) },
        };
        if image.path.file_name().is_none() {
            return Err(InvalidValue::new("no file name in it", "write [raw:]PATH"));
        }
        Ok(image)
    }
}

fn by_ending(path: &Path) -> ImageFormat {
    if path.extension().is_some_and(|ending| ending == "qcow2") { ImageFormat::Qcow2 } else { ImageFormat::Raw }
}

/// A disk of a virtual machine: `IMAGE[:ro|:rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

impl Disk {
    /// Parses `IMAGE[:ro|:rw]`; without an ending, the guest may write.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidValue> {
        let bytes = text.as_bytes();
        let read_only = bytes.strip_suffix(b":ro");
        let path = read_only.or_else(|| bytes.strip_suffix(b":rw")).unwrap_or(bytes);
        if path.is_empty() {
            return Err(InvalidValue::new("no image in it", "write IMAGE or IMAGE:ro"));
        }
        Ok(Self { path: OsStr::from_bytes(path).into(), read_only: read_only.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_shortened_and_are_told_apart() {
        assert_eq!(reset_scope("v").unwrap(), ResetScope::Vms);
        assert_eq!(verbosity("b").unwrap(), Verbosity::Brief);
        assert_eq!(verbosity("verbose").unwrap(), Verbosity::Verbose);
        assert_eq!(boot_device("cd").unwrap(), BootDevice::Cdrom);
        assert!(verbosity("").is_err());
        assert!(verbosity("briefly").unwrap_err().to_string().contains("brief, verbose"));
        assert!(whole("a", &["ab", "ac"]).unwrap_err().to_string().contains("ab or ac"));
        assert_eq!(whole("ab", &["ab", "abc"]), Ok("ab"));
    }

    #[test]
    fn sizes_of_disks() {
        for (text, bytes) in [("512", 512), ("1k", 1024), ("10G", 10 << 30), ("16T", 16 << 40), ("3MiB", 3 << 20)] {
            assert_eq!(text.parse::<DiskSize>().unwrap().bytes(), bytes, "{text}");
        }
        for bad in ["", "0", "511", "1B", "G", "-1", "1.5G", "17T", "99999999999999999999", "1 G", "1X"] {
            assert!(bad.parse::<DiskSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_memory() {
        for (text, mib) in [("256", 256), ("256M", 256), ("2g", 2048), ("1024K", 1)] {
            assert_eq!(memory_mib(text), Ok(mib), "{text}");
        }
        for bad in ["", "0", "M", "1K", "1.5G", "-1", "99999999999999999999T"] {
            assert!(memory_mib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_and_disks() {
        let image = |text: &str| NewImage::parse(text.as_ref());
        assert_eq!(image("a.img").unwrap(), NewImage { format: ImageFormat::Raw, path: "a.img".into() });
        assert_eq!(image("raw:a.qcow2").unwrap(), NewImage { format: ImageFormat::Raw, path: "a.qcow2".into() });
        assert_eq!(image("a.qcow2").unwrap().format, ImageFormat::Qcow2);
        assert_eq!(image("qcow2:a").unwrap(), NewImage { format: ImageFormat::Qcow2, path: "a".into() });
        for bad in ["", "raw:", "/"] {
            assert!(image(bad).is_err(), "{bad}");
        }
        let disk = |text: &str| Disk::parse(text.as_ref());
        assert_eq!(disk("/a:ro").unwrap(), Disk { path: "/a".into(), read_only: true });
        assert_eq!(disk("a:b:rw").unwrap(), Disk { path: "a:b".into(), read_only: false });
        assert_eq!(disk("a").unwrap(), Disk { path: "a".into(), read_only: false });
        assert!(disk(":ro").is_err());
    }
}
