//! Packs a file or tree of the guest into a tar archive, as the host takes it.
//!
//! Modes, times and symbolic links are kept. Hard links become files of their own, and sparse files are written out. A
//! socket, fifo or device can't be copied.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};

/// Why something could not be packed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    #[error("read {} in the guest: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} in the guest is neither a file, a folder nor a symbolic link; leave it out", .0.display())]
    Special(PathBuf),
}

/// Packs `path` under the name that it ends with. A symbolic link as `path` itself is followed.
pub(super) fn pack(path: &Path, writer: impl Write) -> Result<(), PackError> {
    let failed = |source| PackError::Read { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let mut builder = Builder::new(writer);
    append(&mut builder, path, Path::new(name), &metadata)?;
    builder.into_inner().and_then(|mut writer| writer.flush()).map_err(failed)
}

fn append(builder: &mut Builder<impl Write>, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), PackError> {
    let failed = |source| PackError::Read { path: path.to_owned(), source };
    let mut header = header(metadata);
    if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        builder.append_data(&mut header, name, io::empty()).map_err(failed)?;
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (child, metadata) = (entry.path(), entry.metadata().map_err(failed)?);
            append(builder, &child, &name.join(entry.file_name()), &metadata)?;
        }
        Ok(())
    } else if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = std::fs::read_link(path).map_err(failed)?;
        builder.append_link(&mut header, name, target).map_err(failed)
    } else if metadata.is_file() {
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        let mut options = File::options();
        // A file that was swapped for a fifo meanwhile must not block.
        let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path).map_err(failed)?;
        let content = Exactly { file, remaining: metadata.len() };
        builder.append_data(&mut header, name, content).map_err(failed)
    } else {
        Err(PackError::Special(path.to_owned()))
    }
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(metadata.mtime().try_into().unwrap_or(0));
    header.set_size(0);
    header
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
