//! What a configuration needs to know about the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::limits::MAX_FILE_BYTES;

/// Questions to the host.
pub trait Host {
    /// The content of a file of the configuration, up to one byte more than [`MAX_FILE_BYTES`].
    ///
    /// # Errors
    /// It can't be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The absolute path of what exists at `path`, without symbolic links.
    ///
    /// # Errors
    /// It does not exist, or can't be looked up.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;

    /// What is at `path`.
    ///
    /// # Errors
    /// It can't be opened and read.
    fn examine(&self, path: &Path) -> io::Result<Examined>;

    /// The number of the user who is called `name`.
    ///
    /// # Errors
    /// The users can't be read.
    fn user(&self, name: &str) -> io::Result<Option<u32>>;

    /// The number of the group that is called `name`.
    ///
    /// # Errors
    /// The groups can't be read.
    fn group(&self, name: &str) -> io::Result<Option<u32>>;
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// What it is.
    pub kind: FileKind,
    /// Device and inode: equal for the same file under whatever name.
    pub identity: (u64, u64),
    /// Its first four bytes, zeroes if it has less. Zeroes too if it may not be read now: the format is then decided as for a raw image.
    pub magic: [u8; 4],
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
    /// A folder, a pipe, a character device.
    Other,
}

/// This host. Users and groups are those of `/etc/passwd` and `/etc/group`: a static program can't load what other databases need, so users
/// of these are given by number.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealHost;

/// Most bytes of `/etc/passwd` and `/etc/group` that are looked at.
const MAX_DATABASE_BYTES: u64 = 16 << 20;

impl Host for RealHost {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Opening a pipe would wait for somebody to write.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        File::open(path)?.take((MAX_FILE_BYTES as u64).saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }

    fn examine(&self, path: &Path) -> io::Result<Examined> {
        let metadata = std::fs::metadata(path)?;
        let kind = match metadata.file_type() {
            kind if kind.is_file() => FileKind::Regular,
            kind if kind.is_block_device() => FileKind::BlockDevice,
            _ => FileKind::Other,
        };
        let mut magic = [0; 4];
        if kind == FileKind::Regular {
            // Too short to have a magic number.
            let _ = File::open(path)?.read_exact(&mut magic);
        }
        Ok(Examined { kind, identity: (metadata.dev(), metadata.ino()), magic })
    }

    fn user(&self, name: &str) -> io::Result<Option<u32>> {
        look_up(Path::new("/etc/passwd"), name)
    }

    fn group(&self, name: &str) -> io::Result<Option<u32>> {
        look_up(Path::new("/etc/group"), name)
    }
}

/// The number of `name` in a file in the form of passwd(5) or group(5).
fn look_up(database: &Path, name: &str) -> io::Result<Option<u32>> {
    let mut text = Vec::new();
    File::open(database)?.take(MAX_DATABASE_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let entry =
        text.lines().map(|line| line.split(':')).find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)));
    Ok(entry.flatten().and_then(|number| number.parse().ok()))
}

/// A host out of thin air, for tests.
#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    /// Files by their absolute paths.
    pub files: BTreeMap<PathBuf, FakeFile>,
    /// Users.
    pub users: BTreeMap<String, u32>,
    /// Groups.
    pub groups: BTreeMap<String, u32>,
}

/// A file of a [`FakeHost`].
#[derive(Debug, Clone)]
pub struct FakeFile {
    /// What it is.
    pub kind: FileKind,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its number.
    pub inode: u64,
    /// The path that it really is at, if it is a symbolic link.
    pub target: Option<PathBuf>,
}

impl FakeHost {
    /// Adds a regular file.
    pub fn add(&mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> &mut Self {
        let inode = self.files.values().map(|file| file.inode).max().map_or(1, |last| last.saturating_add(1));
        let file = FakeFile { kind: FileKind::Regular, content: content.into(), inode, target: None };
        self.files.insert(path.into(), file);
        self
    }

    fn find(&self, path: &Path) -> io::Result<(&Path, &FakeFile)> {
        let (path, file) = self.files.get_key_value(path).ok_or(io::ErrorKind::NotFound)?;
        match &file.target {
            Some(target) => {
                let (path, file) = self.files.get_key_value(target).ok_or(io::ErrorKind::NotFound)?;
                Ok((path, file))
            }
            None => Ok((path, file)),
        }
    }
}

impl Host for FakeHost {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.find(path)?.1.content.iter().copied().take(MAX_FILE_BYTES.saturating_add(1)).collect())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(self.find(path)?.0.to_owned())
    }

    fn examine(&self, path: &Path) -> io::Result<Examined> {
        let file = self.find(path)?.1;
        let magic = file.content.first_chunk().copied().unwrap_or_default();
        Ok(Examined { kind: file.kind, identity: (0, file.inode), magic })
    }

    fn user(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(self.users.get(name).copied())
    }

    fn group(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(self.groups.get(name).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_of_this_host() {
        assert_eq!(RealHost.user("root").unwrap(), Some(0));
        assert_eq!(RealHost.group("root").unwrap(), Some(0));
        assert_eq!(RealHost.user("nobody-is-called-so").unwrap(), None);
        assert_eq!(RealHost.user("").unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        std::fs::write(&passwd, b"a:x:1:2::/:/bin/sh\n\nbroken\nc:x:many:2\n\xff:x:9:9\nd:x:4294967296:1\ne:x:77")
            .unwrap();
        for (name, id) in [("a", Some(1)), ("b", None), ("broken", None), ("c", None), ("d", None), ("e", Some(77))] {
            assert_eq!(look_up(&passwd, name).unwrap(), id, "{name}");
        }
    }

    #[test]
    fn files_of_this_host() {
        let folder = tempfile::tempdir().unwrap();
        let (image, link) = (folder.path().join("image"), folder.path().join("link"));
        std::fs::write(&image, b"QFI\xfb\0\0\0\x03").unwrap();
        std::os::unix::fs::symlink(&image, &link).unwrap();
        assert_eq!(RealHost.resolve(&link).unwrap(), RealHost.resolve(&image).unwrap());
        let (one, other) = (RealHost.examine(&image).unwrap(), RealHost.examine(&link).unwrap());
        assert_eq!((one.kind, one.magic, one), (FileKind::Regular, *b"QFI\xfb", other));
        assert_eq!(RealHost.examine(folder.path()).unwrap().kind, FileKind::Other);
        assert_eq!(RealHost.examine(Path::new("/dev/null")).unwrap().kind, FileKind::Other);
        std::fs::write(&image, b"Q").unwrap();
        assert_eq!(RealHost.examine(&image).unwrap().kind, FileKind::Regular);
        assert!(RealHost.read(folder.path()).is_err());
        std::fs::write(&image, vec![0; MAX_FILE_BYTES * 2]).unwrap();
        assert_eq!(RealHost.read(&image).unwrap().len(), MAX_FILE_BYTES + 1);
    }
}
