//! Reading the files that a guest boots from. Nothing is assumed about them, not even that they keep still.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::GuestMemory;

/// Which of the boot files an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The kernel image.
    Kernel,
    /// The initramfs.
    Initramfs,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
        })
    }
}

/// A boot file that can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Seeking failed, so this is a pipe, a socket or a folder.
    #[error("find the size of the {role} file: {source}; it must be a file that can seek")]
    Seek {
        /// Which file.
        role: Role,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("read {length} bytes at offset {offset:#x} of the {role} file: {source}")]
    Read {
        /// Which file.
        role: Role,
        /// Where.
        offset: u64,
        /// How many bytes were wanted.
        length: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file ends before what its headers speak of.
    #[error(
        "{role} file ends at {size:#x}, but its headers speak of {length} bytes at offset {offset:#x}: it is cut off \
         or damaged, copy or build it again"
    )]
    Truncated {
        /// Which file.
        role: Role,
        /// Size of the file.
        size: u64,
        /// Where the missing bytes should be.
        offset: u64,
        /// How many there should be.
        length: u64,
    },
    /// The guest has no memory where the file's content should go.
    #[error("guest memory has no {length} bytes at {address:#x} for the {role}: give the guest more memory")]
    NoMemory {
        /// Which file.
        role: Role,
        /// Guest physical address.
        address: u64,
        /// How many bytes were to go there.
        length: u64,
    },
}

/// A boot file with its size.
pub(crate) struct Image<'a> {
    file: &'a mut File,
    role: Role,
    size: u64,
}

impl<'a> Image<'a> {
    pub(crate) fn new(file: &'a mut File, role: Role) -> Result<Self, ImageError> {
        // Not by fstat(2), which knows no size of a block device.
        let size = file.seek(SeekFrom::End(0)).map_err(|source| ImageError::Seek { role, source })?;
        Ok(Self { file, role, size })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.file
    }

    /// Fails unless the file has `length` bytes at `offset`.
    pub(crate) fn check_range(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.truncated(offset, length)),
        }
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let length = buffer.len() as u64;
        self.check_range(offset, length)?;
        self.seek(offset, length)?;
        self.file.read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(offset, length),
            _ => self.unreadable(offset, length, source),
        })
    }

    /// Reads `length` bytes from `offset` on straight into guest memory.
    pub(crate) fn read_to_guest(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemory,
        address: GuestAddress,
    ) -> Result<(), ImageError> {
        self.check_range(offset, length)?;
        self.seek(offset, length)?;
        let no_memory = ImageError::NoMemory { role: self.role, address: address.0, length };
        let mut done = 0;
        while done < length {
            let (Some(target), Ok(rest)) = (address.0.checked_add(done), usize::try_from(length.saturating_sub(done)))
            else {
                return Err(no_memory);
            };
            match memory.read_volatile_from(GuestAddress(target), self.file, rest) {
                Ok(0) => return Err(self.truncated(offset, length)),
                Ok(count) => done = done.saturating_add(count as u64),
                Err(GuestMemoryError::IOError(source)) => return Err(self.unreadable(offset, length, source)),
                Err(_) => return Err(no_memory),
            }
        }
        Ok(())
    }

    fn seek(&mut self, offset: u64, length: u64) -> Result<(), ImageError> {
        match self.file.seek(SeekFrom::Start(offset)) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.unreadable(offset, length, source)),
        }
    }

    fn truncated(&self, offset: u64, length: u64) -> ImageError {
        ImageError::Truncated { role: self.role, size: self.size, offset, length }
    }

    fn unreadable(&self, offset: u64, length: u64, source: io::Error) -> ImageError {
        ImageError::Read { role: self.role, offset, length, source }
    }
}
