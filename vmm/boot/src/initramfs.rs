//! Places an initramfs as high as the kernel can reach, so that the kernel has room to unpack itself below it.

use std::fs::File;

use vm_memory::GuestAddress;

use crate::{
    GuestMemory,
    image::{Image, ImageError, Role},
};

/// Where an initramfs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedInitramfs {
    /// Its first byte, on a page boundary.
    pub address: GuestAddress,
    /// Its size in bytes.
    pub size: u64,
}

/// An initramfs that can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitramfsError {
    /// The file can't be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is nothing in it.
    #[error("initramfs file is empty: leave it out, or give a cpio archive")]
    Empty,
    /// It does not fit.
    #[error(
        "initramfs of {size} bytes does not fit between the kernel's end at {floor:#x} and the end of low memory at \
         {ceiling:#x}: give the guest more memory or a smaller initramfs"
    )]
    NoRoom {
        /// Its size.
        size: u64,
        /// First address behind the kernel.
        floor: u64,
        /// First address that it can't have.
        ceiling: u64,
    },
}

const PAGE: u64 = 0x1000;

/// Reads `file` into guest memory between `floor` and `ceiling`.
pub(crate) fn load(
    file: &mut File,
    memory: &GuestMemory,
    floor: u64,
    ceiling: u64,
) -> Result<LoadedInitramfs, InitramfsError> {
    let mut image = Image::new(file, Role::Initramfs)?;
    let size = image.size();
    if size == 0 {
        return Err(InitramfsError::Empty);
    }
    let address = place(size, floor, ceiling).ok_or(InitramfsError::NoRoom { size, floor, ceiling })?;
    image.read_to_guest(0, size, memory, address)?;
    Ok(LoadedInitramfs { address, size })
}

fn place(size: u64, floor: u64, ceiling: u64) -> Option<GuestAddress> {
    let address = ceiling.checked_sub(size)? & !PAGE.saturating_sub(1);
    (address >= floor).then_some(GuestAddress(address))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn takes_the_highest_pages() {
        assert_eq!(place(1, 0, 0x5000), Some(GuestAddress(0x4000)));
        assert_eq!(place(0x1000, 0x4000, 0x5000), Some(GuestAddress(0x4000)));
        assert_eq!(place(0x1001, 0x4000, 0x5000), None);
        assert_eq!(place(u64::MAX, 0, 0x5000), None);
    }

    #[test]
    fn reads_the_whole_file() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap();
        let content: Vec<u8> = (0..0x1801).map(|index| index as u8).collect();
        let loaded = load(&mut file(&content), &memory, 0x1000, 0x8000).unwrap();
        assert_eq!(loaded, LoadedInitramfs { address: GuestAddress(0x6000), size: 0x1801 });
        let mut read = vec![0; content.len()];
        memory.read_slice(&mut read, loaded.address).unwrap();
        assert_eq!(read, content);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap();
        assert!(matches!(load(&mut file(b""), &memory, 0, 0x8000), Err(InitramfsError::Empty)));
        let error = load(&mut file(&[1; 0x2000]), &memory, 0x7000, 0x8000).unwrap_err();
        assert!(matches!(error, InitramfsError::NoRoom { size: 0x2000, floor: 0x7000, ceiling: 0x8000 }));
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut pipe = File::from(std::os::fd::OwnedFd::from(reader));
        assert!(matches!(load(&mut pipe, &memory, 0, 0x8000), Err(InitramfsError::Image(ImageError::Seek { .. }))));
    }
}
