//! Kernels, RAM disks and disk images: opened with the caller's own rights, then checked and locked on the descriptor.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use crate::request::{Access, RootImage};

/// Disks are addressed in sectors of this many bytes.
const SECTOR_BYTES: u64 = 512;
/// Offset of the superblock's magic number in an ext2, ext3 or ext4 image, bytes (`struct ext4_super_block`, kernel
/// documentation filesystems/ext4/super.rst).
const EXT4_MAGIC_OFFSET: u64 = 0x438;
/// Offset of the header's magic number in a bzImage, bytes (kernel documentation arch/x86/boot.rst).
const BZIMAGE_MAGIC_OFFSET: u64 = 0x202;

/// An open image.
#[derive(Debug)]
pub struct Image {
    /// The open file.
    pub file: File,
    /// Its length, bytes.
    pub length: u64,
}

/// An image that can't be used. Each names the option that asked for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It can't be opened or read.
    #[error("{option} {}", path.display())]
    Open {
        /// The option.
        option: &'static str,
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is not what the option needs.
    #[error("{option} {}: {problem}; {remedy}", path.display())]
    Unsuitable {
        /// The option.
        option: &'static str,
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// Opens a kernel: an ELF file (vmlinux) or a bzImage.
pub fn open_kernel(path: &Path) -> Result<Image, ImageError> {
    let candidate = Candidate::open("--kernel", path, Access::ReadOnly)?;
    let kernel = candidate.has(0, b"\x7fELF")? || candidate.has(BZIMAGE_MAGIC_OFFSET, b"HdrS")?;
    if !kernel {
        return Err(candidate.unsuitable("not a kernel", "use an ELF vmlinux or a bzImage"));
    }
    candidate.regular()
}

/// Opens an initial RAM disk. What is in it is the guest's business.
pub fn open_initramfs(path: &Path) -> Result<Image, ImageError> {
    let candidate = Candidate::open("--initramfs", path, Access::ReadOnly)?;
    if candidate.length == 0 {
        return Err(candidate.unsuitable("empty", "use a cpio archive in newc format, compressed or not"));
    }
    candidate.regular()
}

/// Opens and locks a root file system. The lock lasts for as long as anybody has the descriptor.
pub fn open_root(image: &RootImage) -> Result<Image, ImageError> {
    let candidate = Candidate::open("--rootfs", &image.path, image.access)?;
    let squashfs = candidate.has(0, b"hsqs")?;
    if !squashfs && !candidate.has(EXT4_MAGIC_OFFSET, &[0x53, 0xef])? {
        return Err(candidate.unsuitable("neither ext4 nor squashfs", "make one with mkfs.ext4 -d or mksquashfs"));
    }
    if squashfs && image.access == Access::ReadWrite {
        return Err(candidate.unsuitable("squashfs is never writable", "use :ro, whose writes stay in guest memory"));
    }
    if candidate.length % SECTOR_BYTES != 0 {
        return Err(candidate.unsuitable("not a whole number of 512-byte sectors", "truncate --size=%512 extends it"));
    }
    candidate.lock(image.access)?;
    Ok(Image { file: candidate.file, length: candidate.length })
}

/// A file that was opened for an option, and may still turn out to be unsuitable.
struct Candidate<'a> {
    option: &'static str,
    path: &'a Path,
    file: File,
    length: u64,
}

impl<'a> Candidate<'a> {
    fn open(option: &'static str, path: &'a Path, access: Access) -> Result<Self, ImageError> {
        let open = || {
            let mut options = File::options();
            // Without O_NONBLOCK, opening a fifo would wait for its other end.
            options.read(true).write(access == Access::ReadWrite);
            let mut file = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
            // Block devices have no length in their metadata.
            let length = io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap_or(0);
            io::Seek::rewind(&mut file).ok();
            Ok((file, length))
        };
        let (file, length) = open().map_err(|source| ImageError::Open { option, path: path.to_owned(), source })?;
        let candidate = Self { option, path, file, length };
        let file_type = candidate.file.metadata().map_err(|source| candidate.unreadable(source))?.file_type();
        if !file_type.is_file() && !file_type.is_block_device() {
            return Err(candidate.unsuitable("not a regular file", "name an image"));
        }
        Ok(candidate)
    }

    /// Whether the bytes at `offset` are `magic`.
    fn has(&self, offset: u64, magic: &[u8]) -> Result<bool, ImageError> {
        let mut bytes = vec![0; magic.len()];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes == magic),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn regular(self) -> Result<Image, ImageError> {
        let regular = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        if !regular {
            return Err(self.unsuitable("not a regular file", "copy it to a file first"));
        }
        Ok(Image { file: self.file, length: self.length })
    }

    fn lock(&self, access: Access) -> Result<(), ImageError> {
        let operation = match access {
            Access::ReadOnly => FlockOperation::NonBlockingLockShared,
            Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
        };
        rustix::fs::flock(&self.file, operation).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => self.unsuitable(
                "in use by another virtual machine",
                "only read-only use is shared; stop the other one or use a copy",
            ),
            other => self.unreadable(other.into()),
        })
    }

    fn unreadable(&self, source: io::Error) -> ImageError {
        ImageError::Open { option: self.option, path: self.path.to_owned(), source }
    }

    fn unsuitable(&self, problem: impl Into<String>, remedy: &'static str) -> ImageError {
        let (option, path, problem) = (self.option, self.path.to_owned(), problem.into());
        ImageError::Unsuitable { option, path, problem, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path, name: &str, length: u64, parts: &[(u64, &[u8])]) -> PathBuf {
        let path = directory.join(name);
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).unwrap();
        }
        path
    }

    fn root(path: &Path, access: Access) -> Result<Image, String> {
        open_root(&RootImage { path: path.to_owned(), access }).map_err(|error| error.to_string())
    }

    #[test]
    fn kernels_are_told_by_their_magic_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let elf = image(directory.path(), "elf", 4096, &[(0, b"\x7fELF")]);
        let bzimage = image(directory.path(), "bzimage", 4096, &[(0x202, b"HdrS")]);
        let text = image(directory.path(), "text", 3, &[(0, b"hi\n")]);
        assert_eq!(open_kernel(&elf).unwrap().length, 4096);
        assert!(open_kernel(&bzimage).is_ok());
        let error = open_kernel(&text).unwrap_err().to_string();
        assert!(error.starts_with("--kernel ") && error.contains("text: not a kernel; use"), "{error}");
        assert!(open_kernel(directory.path()).is_err());
        assert!(open_kernel(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_fifo_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(open_initramfs(&fifo), Err(ImageError::Unsuitable { .. })));
    }

    #[test]
    fn roots_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let ext4 = image(directory.path(), "ext4", 8192, &[(0x438, &[0x53, 0xef])]);
        let odd = image(directory.path(), "odd", 8193, &[(0x438, &[0x53, 0xef])]);
        let squashfs = image(directory.path(), "squashfs", 4096, &[(0, b"hsqs")]);
        let empty = image(directory.path(), "empty", 0, &[]);
        assert!(root(&ext4, Access::ReadWrite).is_ok());
        assert!(root(&squashfs, Access::ReadOnly).is_ok());
        assert!(root(&squashfs, Access::ReadWrite).unwrap_err().contains("never writable"));
        assert!(root(&odd, Access::ReadOnly).unwrap_err().contains("sectors"));
        assert!(root(&empty, Access::ReadOnly).unwrap_err().contains("neither"));
    }

    #[test]
    fn a_writable_root_is_exclusive_and_read_only_ones_are_shared() {
        let directory = tempfile::tempdir().unwrap();
        let path = image(directory.path(), "ext4", 8192, &[(0x438, &[0x53, 0xef])]);
        let (one, other) = (root(&path, Access::ReadOnly).unwrap(), root(&path, Access::ReadOnly).unwrap());
        assert!(root(&path, Access::ReadWrite).unwrap_err().contains("in use"));
        drop((one, other));
        let writer = root(&path, Access::ReadWrite).unwrap();
        assert!(root(&path, Access::ReadOnly).unwrap_err().contains("in use"));
        // The lock follows the open file, not this descriptor or process.
        let copy = writer.file.try_clone().unwrap();
        drop(writer);
        assert!(root(&path, Access::ReadWrite).is_err());
        drop(copy);
        assert!(root(&path, Access::ReadWrite).is_ok());
    }
}
