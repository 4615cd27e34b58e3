//! Tells the formats of kernels apart.

use linux_loader::loader::bootparam::setup_header;

use super::{
    Protocol,
    bzimage::{self, BzImageError},
    elf::{self, ElfError},
};
use crate::{
    GuestMemory,
    image::{Image, ImageError},
};

/// A kernel in guest memory.
pub(crate) struct LoadedKernel {
    /// How it is entered.
    pub(crate) protocol: Protocol,
    /// Its first instruction.
    pub(crate) entry: u64,
    /// First address that it does not need before it knows the memory map.
    pub(crate) end: u64,
    /// First address that an initramfs can't have.
    pub(crate) initramfs_end: u64,
    /// The setup header of a bzImage.
    pub(crate) setup_header: Option<setup_header>,
}

/// A kernel that can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file can't be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An ELF file that can't be booted.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A bzImage that can't be booted.
    #[error(transparent)]
    BzImage(#[from] BzImageError),
    /// No kernel at all.
    #[error("kernel file begins with {start:02x?}, which is {guess}: give an uncompressed ELF vmlinux or a bzImage")]
    Format {
        /// The first bytes.
        start: [u8; 4],
        /// What that looks like.
        guess: &'static str,
    },
}

/// Loads the kernel in `image` into low memory, which ends at `low_end`.
pub(crate) fn load(image: &mut Image<'_>, memory: &GuestMemory, low_end: u64) -> Result<LoadedKernel, KernelError> {
    let mut start = [0; 4];
    image.read(0, &mut start)?;
    if start == elf::MAGIC {
        return Ok(elf::load(image, memory, low_end)?);
    }
    if bzimage::is_bzimage(image)? {
        return Ok(bzimage::load(image, memory, low_end)?);
    }
    Err(KernelError::Format { start, guess: guess(start) })
}

fn guess(start: [u8; 4]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => "a gzip archive",
        [0xfd, b'7', b'z', b'X'] => "an xz archive",
        [0x28, 0xb5, 0x2f, 0xfd] => "a zstd archive",
        [b'B', b'Z', b'h', _] => "a bzip2 archive",
        [b'#', b'!', ..] => "a script",
        _ => "neither an ELF file nor a bzImage",
    }
}
