//! Loads a bzImage and enters it by the 64-bit Linux protocol, which is 0x200 behind its start
//! (<https://docs.kernel.org/arch/x86/boot.html>). The kernel decompresses itself.

use linux_loader::loader::{BzImage, KernelLoader, bootparam::setup_header};
use vm_memory::{ByteValued, GuestAddress};

use super::{
    Protocol,
    kernel::LoadedKernel,
    layout::{HIGH_MEMORY, IDENTITY_MAP_END},
};
use crate::{
    CommandLine, GuestMemory,
    image::{Image, ImageError},
};

const HEADER_OFFSET: u64 = 0x1f1;
const MAGIC_OFFSET: u64 = 0x202;
const MAGIC: [u8; 4] = *b"HdrS";
/// 2.12, the first with `xloadflags`.
const VERSION_MIN: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 2;
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;
/// Without the terminating zero, which the header's limit does not count either.
const COMMAND_LINE_MAX: usize = CommandLine::CAPACITY - 1;

/// A bzImage that can't be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BzImageError {
    /// The file can't be read, or is shorter than its header says.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Too old, or for 32 bits.
    #[error(
        "kernel is a bzImage with boot protocol {:#x}, loadflags {loadflags:#x} and xloadflags {xloadflags:#x}: needed \
         are protocol 2.12 (0x20c) or newer, LOADED_HIGH (1) and XLF_KERNEL_64 (1), that is Linux 3.8 or newer for \
         x86-64",
        version
    )]
    Protocol {
        /// `version`
        version: u16,
        /// `loadflags`
        loadflags: u8,
        /// `xloadflags`
        xloadflags: u16,
    },
    /// Not enough memory to decompress itself.
    #[error(
        "kernel is a bzImage that needs memory from {start:#x} to {end:#x} to decompress itself, low memory within \
         its reach ends at {low_end:#x}: give the guest more memory"
    )]
    NoMemory {
        /// First address that it needs.
        start: u64,
        /// First address behind.
        end: u64,
        /// First address that it can't have.
        low_end: u64,
    },
    /// It takes less of a command line than this machine may give.
    #[error("kernel takes a command line of {0} bytes at most, needed are {COMMAND_LINE_MAX}: use a newer kernel")]
    CommandLine(u32),
    /// linux-loader refused it.
    #[error("load kernel: {0}; the bzImage is damaged or changed while it was read")]
    Load(linux_loader::loader::Error),
}

/// Whether `image` has the signature of a bzImage.
pub(crate) fn is_bzimage(image: &mut Image<'_>) -> Result<bool, ImageError> {
    let mut magic = [0; 4];
    if image.check_range(MAGIC_OFFSET, 4).is_err() {
        return Ok(false);
    }
    image.read(MAGIC_OFFSET, &mut magic)?;
    Ok(magic == MAGIC)
}

/// Loads the kernel in `image` into low memory, which ends at `low_end`.
pub(crate) fn load(image: &mut Image<'_>, memory: &GuestMemory, low_end: u64) -> Result<LoadedKernel, BzImageError> {
    let mut header = setup_header::default();
    image.read(HEADER_OFFSET, header.as_mut_slice())?;
    check_protocol(&header)?;
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup_size = sectors.saturating_add(1).saturating_mul(SECTOR);
    image.check_range(setup_size, ENTRY_64.saturating_add(1))?;
    let size = image.size().saturating_sub(setup_size);

    // Loaded at 1 MiB, the kernel moves itself to its preferred address and needs `init_size` bytes there.
    let start = header.pref_address.max(HIGH_MEMORY);
    let end = start.saturating_add(header.init_size.into()).max(HIGH_MEMORY.saturating_add(size));
    let reach = low_end.min(IDENTITY_MAP_END);
    if end > reach {
        return Err(BzImageError::NoMemory { start: HIGH_MEMORY, end, low_end: reach });
    }

    let address = GuestAddress(HIGH_MEMORY);
    let loaded = BzImage::load(memory, Some(address), image.file(), None).map_err(BzImageError::Load)?;
    // linux-loader reads the size and the header again. What is in memory is bounded by memory, but an initramfs must not
    // be placed by what was true before.
    if loaded.kernel_end > end {
        return Err(BzImageError::NoMemory { start: HIGH_MEMORY, end: loaded.kernel_end, low_end: reach });
    }
    Ok(LoadedKernel {
        protocol: Protocol::Linux64,
        entry: HIGH_MEMORY.saturating_add(ENTRY_64),
        end,
        initramfs_end: initramfs_end(&header, low_end),
        setup_header: Some(header),
    })
}

fn check_protocol(header: &setup_header) -> Result<(), BzImageError> {
    let (version, loadflags, xloadflags) = (header.version, header.loadflags, header.xloadflags);
    if version < VERSION_MIN || loadflags & LOADED_HIGH == 0 || xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BzImageError::Protocol { version, loadflags, xloadflags });
    }
    let command_line_max = header.cmdline_size;
    match usize::try_from(command_line_max) {
        Ok(size) if size >= COMMAND_LINE_MAX => Ok(()),
        _ => Err(BzImageError::CommandLine(command_line_max)),
    }
}

fn initramfs_end(header: &setup_header, low_end: u64) -> u64 {
    if header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
        return low_end;
    }
    low_end.min(u64::from(header.initrd_addr_max).saturating_add(1))
}

#[cfg(test)]
#[path = "bzimage_tests.rs"]
mod tests;
