//! Unpacks a tar archive of the host.
//!
//! The host rules the guest anyway, so this guards against mistakes and not against harm: names stay below the target, and an
//! archive that is cut short is an error. Owners are kept, which the host sets to root.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use tar::{Archive, Entry, EntryType};

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("read the archive: {0}")]
    Archive(io::Error),
    #[error("write {} in the guest: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the archive has {name:?} beside or outside its top entry")]
    Outside { name: PathBuf },
    #[error("the archive has nothing in it")]
    Empty,
}

/// Unpacks the archive's single top entry as `target`. Folders above it are made, a folder there is filled, a file replaced.
pub(super) fn unpack(reader: impl Read, target: &Path) -> Result<(), UnpackError> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(|source| UnpackError::Write { path: parent.to_owned(), source })?;
    }
    let mut archive = Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    let mut top: Option<PathBuf> = None;
    let mut folders = Vec::new();
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        let path = place(&entry, &mut top, target)?;
        let failed = |source| UnpackError::Write { path: path.clone(), source };
        let folder = entry.header().entry_type() == EntryType::Directory;
        let modified = entry.header().mtime().map_err(UnpackError::Archive)?;
        entry.unpack(&path).map_err(failed)?;
        if folder {
            folders.push((path, modified));
        }
    }
    if top.is_none() {
        return Err(UnpackError::Empty);
    }
    // What is made in a folder changes its time, so folders get theirs at the end.
    for (path, modified) in folders {
        let time = Timespec { tv_sec: modified.try_into().unwrap_or(0), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|errno| UnpackError::Write { path, source: errno.into() })?;
    }
    // The host's writer is not to see a broken pipe because of padding.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::Archive)?;
    Ok(())
}

/// Where an entry goes: its name, with `target` in place of the first part.
fn place<R: Read>(entry: &Entry<'_, R>, top: &mut Option<PathBuf>, target: &Path) -> Result<PathBuf, UnpackError> {
    let name = entry.path().map_err(UnpackError::Archive)?.into_owned();
    let mut parts = name.components().filter(|part| *part != Component::CurDir);
    let first = match parts.next() {
        Some(Component::Normal(first)) => PathBuf::from(first),
        _ => return Err(UnpackError::Outside { name }),
    };
    let rest: PathBuf = parts.collect();
    if rest.components().any(|part| !matches!(part, Component::Normal(_)))
        || top.get_or_insert_with(|| first.clone()) != &first
    {
        return Err(UnpackError::Outside { name });
    }
    // Joining nothing would add a slash, which a file must not have.
    Ok(if rest.as_os_str().is_empty() { target.to_owned() } else { target.join(rest) })
}
