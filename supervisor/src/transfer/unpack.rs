//! Unpacks a tar archive that a guest made, which may be made to do harm.
//!
//! - Every path is resolved beneath one folder, by the kernel, without following any symbolic link (`openat2(2)`,
//!   `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_XDEV`), so nothing lands outside, whatever the order of the entries.
//! - Nothing that exists is opened or replaced: each file is new (`O_EXCL`).
//! - Files, folders and symbolic links only; a link that points out of the copied tree is refused, because whoever uses
//!   the copy would follow it. Set-user-ID, set-group-ID and sticky bits and owners are dropped.
//! - Sizes, counts and names are bounded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self as sys, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use tar::{Archive, Entry, EntryType};

/// Most bytes of files in one archive.
pub const MAX_BYTES: u64 = 16 << 30;
/// Most entries in one archive.
pub const MAX_ENTRIES: u64 = 1 << 20;
/// Most bytes in a name, target or extended header.
const MAX_TEXT_BYTES: u64 = 16 * 1024;
/// Most bytes after the end of the archive; tar pads to 10 KiB.
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It can't be read, or what is in it can't be written.
    #[error("unpack {entry}")]
    Io {
        /// The entry.
        entry: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// It has something that would do harm or makes no sense.
    #[error("the guest's archive is refused: {entry}: {problem}")]
    Refused {
        /// The entry.
        entry: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Unpacks the archive's single top entry, which has to be called `top`, as `content` in the empty folder `destination`.
pub(super) fn unpack(reader: impl Read, top: &[u8], destination: &Path, content: &str) -> Result<(), UnpackError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = sys::openat(CWD, destination, flags, Mode::empty()).map_err(|errno| io_error("", errno))?;
    let mut unpacking =
        Unpacking { root, top, content, folders: Vec::new(), bytes_left: MAX_BYTES, entries_left: MAX_ENTRIES };
    let mut archive = Archive::new(reader);
    unpacking.entries(&mut archive)?;
    unpacking.finish_folders()?;
    let mut rest = archive.into_inner().take(MAX_PADDING_BYTES + 1);
    match io::copy(&mut rest, &mut io::sink()) {
        Ok(length) if length > MAX_PADDING_BYTES => Err(refused(top, "data after its end")),
        Ok(_) => Ok(()),
        Err(error) => Err(io_error(shown(top), error)),
    }
}

struct Unpacking<'a> {
    root: OwnedFd,
    top: &'a [u8],
    content: &'a str,
    /// Folders with the modes and times that they get once nothing is created in them any more.
    folders: Vec<(PathBuf, Mode, u64)>,
    bytes_left: u64,
    entries_left: u64,
}

/// What extension entries said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Unpacking<'_> {
    fn entries<R: Read>(&mut self, archive: &mut Archive<R>) -> Result<(), UnpackError> {
        let mut extensions = Extensions::default();
        // Raw, because the crate itself would read extension entries of any length into memory.
        let entries = archive.entries().map_err(|error| io_error("archive", error))?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|error| io_error("archive", error))?;
            let Some(entries_left) = self.entries_left.checked_sub(1) else {
                return Err(refused(self.top, "more than a million entries"));
            };
            self.entries_left = entries_left;
            match entry.header().entry_type() {
                EntryType::GNULongName => extensions.path = Some(without_nul(text(&mut entry)?)),
                EntryType::GNULongLink => extensions.target = Some(without_nul(text(&mut entry)?)),
                EntryType::XHeader => pax(&mut entry, &mut extensions)?,
                _ => self.entry(&mut entry, std::mem::take(&mut extensions))?,
            }
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, extensions: Extensions) -> Result<(), UnpackError> {
        let name = extensions.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = self.place(&name)?;
        let failed = |error: io::Error| io_error(shown(&name), error);
        let header = entry.header();
        let mode = Mode::from_raw_mode(header.mode().map_err(failed)? & 0o777);
        let modified = header.mtime().map_err(failed)?;
        let kind = header.entry_type();
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let length = header.entry_size().map_err(failed)?;
                self.bytes_left =
                    self.bytes_left.checked_sub(length).ok_or_else(|| refused(&name, "more than 16 GiB"))?;
                let mut file = self.create(&path, mode).map_err(failed)?;
                let written = io::copy(entry, &mut file).and_then(|length| file.flush().map(|()| length));
                if written.map_err(failed)? != length {
                    return Err(refused(&name, "cut short"));
                }
                sys::futimens(&file, &times(modified)).map_err(|errno| failed(errno.into()))
            }
            EntryType::Directory => {
                self.make_folder(&path).map_err(failed)?;
                self.folders.push((path, mode, modified));
                Ok(())
            }
            EntryType::Symlink => {
                let target = extensions.target.or_else(|| entry.link_name_bytes().map(|target| target.into_owned()));
                let target = target.ok_or_else(|| refused(&name, "a symbolic link to nothing"))?;
                let target = Path::new(std::ffi::OsStr::from_bytes(&target));
                if leads_out(&path, target) {
                    return Err(refused(&name, "a symbolic link that points out of what is copied"));
                }
                let (parent, name) = self.parent(&path).map_err(failed)?;
                sys::symlinkat(target, parent, name).map_err(|errno| failed(errno.into()))
            }
            _ => Err(refused(&name, "neither a file, a folder nor a symbolic link")),
        }
    }

    /// Where `name` goes, relative to the root: beneath `content`.
    fn place(&self, name: &[u8]) -> Result<PathBuf, UnpackError> {
        let mut components = Path::new(std::ffi::OsStr::from_bytes(name)).components();
        let top = components.find(|part| *part != Component::CurDir);
        if top != Some(Component::Normal(std::ffi::OsStr::from_bytes(self.top))) {
            return Err(refused(name, "not beneath what was asked for"));
        }
        let mut path = PathBuf::from(self.content);
        for part in components {
            match part {
                Component::Normal(part) => path.push(part),
                _ => return Err(refused(name, "a path with ..")),
            }
        }
        Ok(path)
    }

    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((self.open(parent, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?, name))
    }

    fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        Ok(sys::openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    fn create(&self, path: &Path, mode: Mode) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = sys::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
        sys::fchmod(&file, mode)?;
        Ok(file.into())
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(sys::mkdirat(parent, name, Mode::from_raw_mode(0o700))?)
    }

    /// Innermost first, so that a folder without write permission does not get in the way.
    fn finish_folders(&mut self) -> Result<(), UnpackError> {
        while let Some((path, mode, modified)) = self.folders.pop() {
            let finish = || -> io::Result<()> {
                let folder = self.open(&path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
                sys::futimens(folder.as_fd(), &times(modified))?;
                Ok(sys::fchmod(folder, mode)?)
            };
            finish().map_err(|error| io_error(path.display(), error))?;
        }
        Ok(())
    }
}

/// Whether a link at `path` to `target` may lead out of the tree whose root is the first component of `path`.
///
/// The folders above the link are real ones, so each leading `..` goes up one of them. A `..` further on is refused, because
/// it would go up from wherever another link leads.
fn leads_out(path: &Path, target: &Path) -> bool {
    // Folders above the link, without the tree's root.
    let mut depth = path.components().count().saturating_sub(2);
    let mut down = false;
    for part in target.components() {
        match part {
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(above) if !down => depth = above,
                _ => return true,
            },
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

fn pax<R: Read>(entry: &mut Entry<'_, R>, extensions: &mut Extensions) -> Result<(), UnpackError> {
    let bytes = text(entry)?;
    for extension in tar::PaxExtensions::new(&bytes) {
        let extension = extension.map_err(|error| io_error("extended header", error))?;
        match extension.key_bytes() {
            b"path" => extensions.path = Some(extension.value_bytes().to_vec()),
            b"linkpath" => extensions.target = Some(extension.value_bytes().to_vec()),
            b"size" => return Err(refused(b"extended header", "a size in an extended header")),
            _ => {}
        }
    }
    Ok(())
}

fn text<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| io_error("extended header", error))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(refused(b"extended header", "too long"));
    }
    Ok(bytes)
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

fn times(modified: u64) -> Timestamps {
    let time = Timespec { tv_sec: modified.try_into().unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn shown(name: &[u8]) -> String {
    name.escape_ascii().take(256).map(char::from).collect()
}

fn refused(entry: &[u8], problem: &'static str) -> UnpackError {
    UnpackError::Refused { entry: shown(entry), problem }
}

fn io_error(entry: impl ToString, error: impl Into<io::Error>) -> UnpackError {
    UnpackError::Io { entry: entry.to_string(), source: error.into() }
}
