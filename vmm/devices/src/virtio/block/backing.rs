//! The file behind a block device, and what it can do.

use std::fs::{File, Metadata};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::errno::Errno;
use nix::sys::uio::pwritev;
use vm_memory::GuestMemoryMmap;

use super::super::chain::Segment;
use super::super::sys::{self, Direction};
use crate::sys::status_flags;

/// Bytes in a sector, whatever the host's block size (virtio 1.2, 5.2.4).
pub(super) const SECTOR: u64 = 512;
/// Bytes in the identifier of a device.
pub(super) const ID_LENGTH: usize = 20;

/// Zeroes: one write's worth.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Whether the guest may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may not; the device says so, and writes fail.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// What a flush by the guest means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// Nothing: flushes are not offered, and succeed at once. A crash of the host may lose what the guest thinks is safe.
    Unsafe,
    /// The file is synced to the host's disk before the flush completes.
    Writeback,
}

/// Whether the guest may give back space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// It may not: a file that was allocated in full stays so.
    Refused,
    /// It may, if the file is writable and its file system can punch holes.
    Offered,
}

/// Why a file can't be a block device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackingError {
    /// A system call failed.
    #[error("examine drive's file: {0}")]
    Examine(#[source] io::Error),
    /// Neither regular file nor block device.
    #[error("drive's file is neither a regular file nor a block device")]
    Kind,
    /// Not open for what the device needs.
    #[error("drive's file is not open for {0}: open it so, or change is_read_only")]
    Mode(&'static str),
}

/// The file.
#[derive(Debug)]
pub(super) struct Backing {
    file: File,
    size: u64,
    id: [u8; ID_LENGTH],
    access: Access,
    cache_type: CacheType,
    discard: Discard,
    can_punch: bool,
}

/// Checks that a device with this access can be built on `file`.
///
/// # Errors
/// If the file is neither a regular file nor a block device, or isn't open for what `access` needs.
pub fn check_file(file: &File, access: Access) -> Result<Metadata, BackingError> {
    let metadata = file.metadata().map_err(BackingError::Examine)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(BackingError::Kind);
    }
    let mode = status_flags(file.as_fd()).map_err(BackingError::Examine)? & libc::O_ACCMODE;
    match (access, mode) {
        (Access::ReadWrite, libc::O_RDWR) | (Access::ReadOnly, libc::O_RDWR | libc::O_RDONLY) => Ok(metadata),
        (Access::ReadWrite, _) => Err(BackingError::Mode("reading and writing")),
        (Access::ReadOnly, _) => Err(BackingError::Mode("reading")),
    }
}

impl Backing {
    pub(super) fn new(
        mut file: File,
        access: Access,
        cache_type: CacheType,
        discard: Discard,
    ) -> Result<Self, BackingError> {
        let metadata = check_file(&file, access)?;
        let kind = metadata.file_type();
        // The only way that fits files and block devices.
        let length = file.seek(SeekFrom::End(0)).map_err(BackingError::Examine)?;
        let punch = || sys::allocate(file.as_fd(), libc::FALLOC_FL_PUNCH_HOLE, length, SECTOR).is_ok();
        // Beyond its end a block device refuses whatever it can do; at worst it refuses later, request by request.
        let can_punch = access == Access::ReadWrite && (kind.is_block_device() || punch());
        let size = length.saturating_sub(length.checked_rem(SECTOR).unwrap_or(0));
        let id = id(&format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino()));
        Ok(Self { file, size, id, access, cache_type, discard, can_punch })
    }

    /// Bytes that the guest sees.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn id(&self) -> &[u8; ID_LENGTH] {
        &self.id
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn cache_type(&self) -> CacheType {
        self.cache_type
    }

    pub(super) fn can_discard(&self) -> bool {
        self.can_punch && self.discard == Discard::Offered
    }

    pub(super) fn can_write_zeroes(&self) -> bool {
        self.can_punch
    }

    pub(super) fn read(
        &self,
        offset: u64,
        memory: &GuestMemoryMmap,
        segments: impl Iterator<Item = Segment>,
    ) -> io::Result<()> {
        sys::transfer(Direction::FileToGuest, self.file.as_fd(), offset, memory, segments)
    }

    pub(super) fn write(
        &self,
        offset: u64,
        memory: &GuestMemoryMmap,
        segments: impl Iterator<Item = Segment>,
    ) -> io::Result<()> {
        sys::transfer(Direction::GuestToFile, self.file.as_fd(), offset, memory, segments)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        match self.cache_type {
            CacheType::Unsafe => Ok(()),
            CacheType::Writeback => self.file.sync_data(),
        }
    }

    /// Gives back the space of a range, which then reads as zeroes.
    pub(super) fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        sys::allocate(self.file.as_fd(), libc::FALLOC_FL_PUNCH_HOLE, offset, length)
    }

    /// Makes a range read as zeroes and keeps its space, by writing them: FALLOC_FL_ZERO_RANGE would be faster, but no filter can
    /// keep it from taking space behind the end of the file.
    pub(super) fn write_zeroes(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROES.len());
            let zeroes = [IoSlice::new(ZEROES.get(..part).unwrap_or_default())];
            let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let written = match pwritev(&self.file, &zeroes, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::EINTR) => 0,
                written => u64::try_from(written?).unwrap_or(0),
            };
            offset = offset.saturating_add(written);
            length = length.saturating_sub(written);
        }
        Ok(())
    }
}

fn id(text: &str) -> [u8; ID_LENGTH] {
    let mut id = [0; ID_LENGTH];
    id.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(file: File, access: Access) -> Result<Backing, BackingError> {
        Backing::new(file, access, CacheType::Unsafe, Discard::Offered)
    }

    #[test]
    fn size_is_rounded_down_and_holes_do_not_change_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1535).unwrap();
        let backing = build(file.try_clone().unwrap(), Access::ReadWrite).unwrap();
        assert_eq!(backing.size(), 1024);
        backing.discard(0, 1024).unwrap();
        backing.write_zeroes(0, 1024).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1535);
    }

    #[test]
    fn zeroes_are_written_where_they_belong() {
        let file = tempfile::tempfile().unwrap();
        let content = vec![7; 3 * ZEROES.len()];
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
        let backing = build(file.try_clone().unwrap(), Access::ReadWrite).unwrap();
        backing.write_zeroes(512, 2 * ZEROES.len() as u64).unwrap();
        let mut result = vec![1; content.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut result, 0).unwrap();
        let zero = 512..512 + 2 * ZEROES.len();
        assert!(result.iter().enumerate().all(|(index, &byte)| (byte == 0) == zero.contains(&index)));
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        assert!(matches!(build(File::open("/").unwrap(), Access::ReadOnly), Err(BackingError::Kind)));
        assert!(matches!(build(File::open("/dev/null").unwrap(), Access::ReadOnly), Err(BackingError::Kind)));
        let named = tempfile::NamedTempFile::new().unwrap();
        let read = || File::open(named.path()).unwrap();
        assert!(matches!(build(read(), Access::ReadWrite), Err(BackingError::Mode(_))));
        let read_only = build(read(), Access::ReadOnly).unwrap();
        assert!(!read_only.can_discard() && !read_only.can_write_zeroes());
        let write_only = File::options().write(true).open(named.path()).unwrap();
        assert!(matches!(build(write_only, Access::ReadOnly), Err(BackingError::Mode(_))));
    }
}
