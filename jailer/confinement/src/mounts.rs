//! What of the file system a process sees: its root directory, and the mounts below that.

use std::path::{Path, PathBuf};

use rustix::fs::lstat;
use rustix::process::getpid;
use serde::Serialize;

use crate::error::{ParseError, ReadError};
use crate::process::Process;

/// The root of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// Where it is in the process's own mounts.
    pub path: String,
    /// Every mount that it can reach by a path.
    pub mounts: Vec<Mount>,
    /// The device that it is on (`st_dev`), and its number there (`st_ino`).
    pub identity: (u64, u64),
    /// How many names are in it. Only counted where nobody but the kernel answers: in a memory file system that is the only mount.
    pub names: Option<usize>,
}

/// A mount: a line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The device of the file system: `MAJOR:MINOR`.
    pub device: String,
    /// Which folder of the file system is mounted.
    pub root: String,
    /// Where.
    pub point: String,
    /// Options of this mount: `ro`, `nosuid` and so on.
    pub options: Vec<String>,
    /// Type of the file system.
    pub file_system: String,
    /// Device, or whatever else it was made of.
    pub source: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl Root {
    /// Reads it of `process`.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(process: &Process) -> Result<Self, ReadError> {
        let path = process.link("root")?;
        let identity = process.metadata("root")?;
        let identity = (identity.st_dev, identity.st_ino);
        let mounts = process.parsed("mountinfo", Mount::parse_all)?;
        let is_answered_by_kernel = matches!(mounts.as_slice(), [only] if only.file_system == "tmpfs");
        let names = is_answered_by_kernel.then(|| process.names("root/").map(|names| names.len())).transpose()?;
        Ok(Self { path, mounts, identity, names })
    }

    /// Where this is among the mounts of the reader; none if no path leads there.
    ///
    /// # Errors
    /// The reader's mounts can't be read.
    pub fn place(&self) -> Result<Option<PathBuf>, ReadError> {
        let Some(own) = self.mounts.iter().find(|mount| mount.point == "/") else { return Ok(None) };
        let reader = Process::open(getpid().as_raw_nonzero().get())?;
        let mounts = reader.parsed("mountinfo", Mount::parse_all)?;
        let here = |mount: &Mount| {
            let below = Path::new(&own.root).strip_prefix(&mount.root).ok().filter(|_| mount.device == own.device)?;
            Some(Path::new(&mount.point).join(below))
        };
        let is_it = |path: &PathBuf| lstat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == self.identity);
        Ok(mounts.iter().filter_map(here).find(is_it))
    }
}

impl Mount {
    /// Parses the file.
    ///
    /// # Errors
    /// A line has too few fields.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ParseError> {
        text.lines().map(Self::parse).collect()
    }

    /// Whether it has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|found| found == option)
    }

    /// Whether nothing in it can be written, by this mount or by any.
    pub fn is_read_only(&self) -> bool {
        self.has("ro") || self.super_options.iter().any(|option| option == "ro")
    }

    fn parse(line: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::invalid("a mount", line);
        // Any number of optional fields are before the lone hyphen.
        let (mount, file_system) = line.split_once(" - ").ok_or_else(bad)?;
        let mut mount = mount.split(' ').skip(2);
        let (Some(device), Some(root), Some(point), Some(options)) =
            (mount.next(), mount.next(), mount.next(), mount.next())
        else {
            return Err(bad());
        };
        let mut file_system = file_system.split(' ');
        let (Some(kind), Some(source), Some(super_options)) =
            (file_system.next(), file_system.next(), file_system.next())
        else {
            return Err(bad());
        };
        let list = |options: &str| options.split(',').map(str::to_owned).collect();
        Ok(Self {
            device: device.to_owned(),
            root: unescape(root),
            point: unescape(point),
            options: list(options),
            file_system: kind.to_owned(),
            source: unescape(source),
            super_options: list(super_options),
        })
    }
}

/// Undoes what the kernel does to spaces, tabs, line ends and backslashes: `\040` and so on.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                plain.push(code.into());
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard,resuid=65534\n\
        28 27 0:25 /a\\040b /mnt/sand\\134boxing ro,nosuid,nodev,relatime - tmpfs model\\011tools ro,size=4k,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

    #[test]
    fn mounts_of_a_host() {
        let mounts = Mount::parse_all(HOST).unwrap();
        let points: Vec<_> = mounts.iter().map(|mount| mount.point.as_str()).collect();
        assert_eq!(points, ["/proc", "/", "/mnt/sand\\boxing", "/sys/fs/cgroup/memory"]);
        let disk = &mounts[1];
        assert_eq!(disk.device, "254:0");
        assert_eq!((disk.file_system.as_str(), disk.source.as_str()), ("ext4", "/dev/vda"));
        assert!(!disk.is_read_only() && disk.has("relatime"));
        let sandbox = &mounts[2];
        assert_eq!((sandbox.root.as_str(), sandbox.source.as_str()), ("/a b", "model\ttools"));
        assert!(sandbox.is_read_only() && sandbox.has("nosuid") && !sandbox.has("noexec"));
    }

    #[test]
    fn the_root_of_this_test_is_where_it_is() {
        let own = Process::open(getpid().as_raw_nonzero().get()).unwrap();
        let root = Root::read(&own).unwrap();
        assert_eq!(root.place().unwrap().as_deref(), Some(Path::new("/")));
        let elsewhere = Root { identity: (0, 0), ..root };
        assert_eq!(elsewhere.place().unwrap(), None);
    }

    #[test]
    fn the_mount_of_a_jail() {
        let text = "58 57 0:40 / / ro,nosuid,nodev,noexec,relatime - tmpfs stockade ro,size=4k,nr_inodes=2,mode=555\n";
        let [mount] = Mount::parse_all(text).unwrap().try_into().unwrap();
        assert!(["ro", "nosuid", "nodev", "noexec"].iter().all(|option| mount.has(option)));
    }

    #[test]
    fn other_lines_are_refused() {
        for text in ["x", "1 2 3 / /", "1 2 0:3 / / rw - ext4 /dev/vda", "1 2 0:3 / - ext4 a rw"] {
            assert!(Mount::parse_all(text).is_err(), "{text}");
        }
        assert_eq!(Mount::parse_all("").unwrap(), []);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        for text in ["\\", "\\04", "\\999", "a\\777", "\\ä04"] {
            assert_eq!(unescape(text), text);
        }
    }

    proptest! {
        #[test]
        fn paths_survive(path in "(/[^/\\x00\\x80-\\xff]{1,10}){1,4}") {
            let escaped: String = path.chars().fold(String::new(), |text, letter| match letter {
                ' ' | '\t' | '\n' | '\\' => text + &format!("\\{:03o}", u32::from(letter)),
                other => text + &other.to_string(),
            });
            prop_assume!(!escaped.contains(['\r', '\x0b', '\x0c']));
            let line = format!("1 2 0:3 / {escaped} rw - tmpfs none rw\n");
            prop_assert_eq!(&Mount::parse_all(&line).unwrap()[0].point, &path);
        }

        #[test]
        fn no_text_is_a_surprise(text in "\\PC{0,80}( - )?\\PC{0,40}") {
            let _ = Mount::parse_all(&text);
        }
    }
}
