//! Packs a file or tree into a tar archive, in the shape in which host and guest copy to each other.
//!
//! The archive has one top entry, under a name of the caller's choice. Modes, times and symbolic links are kept. Hard links
//! become files of their own, and sparse files are written out. What is neither file, folder nor link is refused.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};

/// Why something could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// It can't be read.
    #[error("read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A socket, fifo or device.
    #[error("{} is neither a file, a folder nor a symbolic link; leave it out", .0.display())]
    Special(PathBuf),
}

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Root.
    Root,
    /// The users and groups of the same numbers.
    Kept,
}

/// Packs `source` under the name `top`. A symbolic link as `source` itself is followed.
///
/// # Errors
/// What can't be read or copied. The archive is to be thrown away then.
pub fn pack(source: &Path, top: &Path, owners: Owners, writer: impl Write) -> Result<(), PackError> {
    let mut packer = Packer { builder: Builder::new(writer), owners };
    let metadata = std::fs::metadata(source).map_err(|error| read_error(source, error))?;
    packer.append(source, top, &metadata)?;
    packer.builder.into_inner().and_then(|mut writer| writer.flush()).map_err(|error| read_error(source, error))
}

struct Packer<W: Write> {
    builder: Builder<W>,
    owners: Owners,
}

impl<W: Write> Packer<W> {
    fn append(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), PackError> {
        let failed = |error| read_error(path, error);
        let mut header = self.header(metadata);
        if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder.append_data(&mut header, name, io::empty()).map_err(failed)?;
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let child = entry.path();
                let metadata = entry.metadata().map_err(|error| read_error(&child, error))?;
                self.append(&child, &name.join(entry.file_name()), &metadata)?;
            }
            Ok(())
        } else if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = std::fs::read_link(path).map_err(failed)?;
            self.builder.append_link(&mut header, name, target).map_err(failed)
        } else if metadata.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            // A file that was swapped for a fifo meanwhile must not block.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
            let content = Exactly { file, remaining: metadata.len() };
            self.builder.append_data(&mut header, name, content).map_err(failed)
        } else {
            Err(PackError::Special(path.to_owned()))
        }
    }

    fn header(&self, metadata: &Metadata) -> Header {
        let (user, group) = match self.owners {
            Owners::Root => (0, 0),
            Owners::Kept => (metadata.uid(), metadata.gid()),
        };
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(user.into());
        header.set_gid(group.into());
        header.set_mtime(metadata.mtime().try_into().unwrap_or(0));
        header.set_size(0);
        header
    }
}

fn read_error(path: &Path, source: io::Error) -> PackError {
    PackError::Read { path: path.to_owned(), source }
}

/// Exactly as many bytes of a file as its header says, or an error: a file may shrink or grow while it is read.
struct Exactly {
    file: File,
    remaining: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (&self.file).take(self.remaining).read(buffer)?;
        if length == 0 && self.remaining > 0 && !buffer.is_empty() {
            return Err(io::Error::other("the file shrank while it was copied"));
        }
        self.remaining = self.remaining.saturating_sub(length.try_into().unwrap_or(u64::MAX));
        Ok(length)
    }
}
