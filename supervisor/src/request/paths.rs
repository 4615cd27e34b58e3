//! Images, and what is copied between host and guest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{Access, InvalidValue};

/// An image with a root file system: `PATH`, `PATH:ro` or `PATH:rw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether the guest may change it; not if nothing is said.
    pub access: Access,
}

impl RootImage {
    /// Reads the form of the command line.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidValue> {
        let bytes = text.as_bytes();
        let (path, access) = if let Some(path) = bytes.strip_suffix(b":rw") {
            (path, Access::ReadWrite)
        } else {
            (bytes.strip_suffix(b":ro").unwrap_or(bytes), Access::ReadOnly)
        };
        if path.is_empty() {
            return Err(InvalidValue::new("the path is empty", "write IMAGE, IMAGE:ro or IMAGE:rw"));
        }
        Ok(Self { path: PathBuf::from(OsStr::from_bytes(path)), access })
    }
}

/// A file or tree to copy to the guest: `HOST:GUEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// What is copied.
    pub host: PathBuf,
    /// What it becomes, absolute and ending in a name.
    pub guest: PathBuf,
}

impl CopyIn {
    /// Reads the form of the command line. A guest path that ends in `/` is a folder to copy into.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidValue> {
        const REMEDY: &str = "write HOST:GUEST, with an absolute path in the guest";
        let bytes = text.as_bytes();
        // The last ":/" separates, so that a path on the host may contain colons.
        let separator = bytes.windows(2).rposition(|pair| pair == b":/");
        let (host, guest) = separator
            .and_then(|at| bytes.split_at_checked(at))
            .and_then(|(host, guest)| Some((host, guest.strip_prefix(b":")?)))
            .ok_or_else(|| InvalidValue::new("no absolute path in the guest", REMEDY))?;
        if host.is_empty() {
            return Err(InvalidValue::new("the path on the host is empty", REMEDY));
        }
        let host = PathBuf::from(OsStr::from_bytes(host));
        let mut path = PathBuf::from(OsStr::from_bytes(guest));
        if guest.ends_with(b"/") {
            let name = host.file_name().ok_or_else(|| InvalidValue::new("the path on the host has no name", REMEDY))?;
            path.push(name);
        }
        Ok(Self { host, guest: guest_path(&path)? })
    }
}

/// A file or tree to copy from the guest: `GUEST:HOST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOut {
    /// What is copied, absolute and ending in a name.
    pub guest: PathBuf,
    /// What it becomes; an existing folder is copied into.
    pub host: PathBuf,
}

impl CopyOut {
    /// Reads the form of the command line.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidValue> {
        const REMEDY: &str = "write GUEST:HOST, with an absolute path in the guest";
        let bytes = text.as_bytes();
        let separator = bytes.iter().position(|&byte| byte == b':');
        let (guest, host) = separator
            .and_then(|at| bytes.split_at_checked(at))
            .and_then(|(guest, host)| Some((guest, host.strip_prefix(b":")?)))
            .ok_or_else(|| InvalidValue::new("no ':' between two paths", REMEDY))?;
        if host.is_empty() {
            return Err(InvalidValue::new("the path on the host is empty", REMEDY));
        }
        let guest = guest_path(Path::new(OsStr::from_bytes(guest)))?;
        Ok(Self { guest, host: PathBuf::from(OsStr::from_bytes(host)) })
    }
}

/// `path` without `.` and doubled slashes; refused if it is not absolute, has `..`, or is the root directory.
fn guest_path(path: &Path) -> Result<PathBuf, InvalidValue> {
    let shown = path.display();
    if path.to_str().is_none() {
        return Err(InvalidValue::new(format!("guest path {shown} is not UTF-8"), "rename it"));
    }
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(InvalidValue::new(
            format!("guest path {shown:?} is not absolute"),
            "start it with / and use no ..",
        ));
    }
    if path.file_name().is_none() {
        return Err(InvalidValue::new("the guest's root directory can't be copied", "name a file or folder in it"));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_images() {
        let parse = |text: &str| RootImage::parse(OsStr::new(text)).map(|image| (image.path, image.access));
        assert_eq!(parse("a.img"), Ok(("a.img".into(), Access::ReadOnly)));
        assert_eq!(parse("/a:b.img:ro"), Ok(("/a:b.img".into(), Access::ReadOnly)));
        assert_eq!(parse("a.img:rw"), Ok(("a.img".into(), Access::ReadWrite)));
        assert_eq!(parse("a.img:xx"), Ok(("a.img:xx".into(), Access::ReadOnly)));
        assert!(parse(":rw").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn copies_in() {
        let parse = |text: &str| CopyIn::parse(OsStr::new(text)).map(|copy| (copy.host, copy.guest));
        assert_eq!(parse("a:/b"), Ok(("a".into(), "/b".into())));
        assert_eq!(parse("/x/a:b:/c//./d"), Ok(("/x/a:b".into(), "/c/d".into())));
        assert_eq!(parse("/x/a:/tmp/"), Ok(("/x/a".into(), "/tmp/a".into())));
        for bad in ["a", "a:b", ":/b", "a:/", "a:/../b", "..:/tmp/", "a:"] {
            assert!(parse(bad).is_err() || bad == "a:/", "{bad}");
        }
        assert_eq!(parse("a:/"), Ok(("a".into(), "/a".into())));
    }

    #[test]
    fn copies_out() {
        let parse = |text: &str| CopyOut::parse(OsStr::new(text)).map(|copy| (copy.guest, copy.host));
        assert_eq!(parse("/a:b:c"), Ok(("/a".into(), "b:c".into())));
        assert_eq!(parse("/a/b/:."), Ok(("/a/b".into(), ".".into())));
        for bad in ["/a", "a:b", "/a:", "/:b", "/a/../b:c", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
