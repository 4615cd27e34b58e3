//! How the guest starts, is prepared, and ends.
//!
//! Without a root disk, commands run in the initramfs: a tmpfs with busybox. With one, the disk becomes the root of every process,
//! and the initramfs disappears behind it. `/dev`, `/proc` and `/sys` move along, `/run` is new.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move, mount_remount};
use rustix::process::WaitOptions;
use rustix::system::RebootCommand;
use rustix::time::{ClockId, Timespec, clock_settime};
use stockade_guest_protocol::{ENTROPY_BYTES, Renewal, Root, Setup};

use crate::sys;

/// Where a root is put together before it becomes the root.
const STAGING: &str = "/.root";

/// Something that every guest needs does not work.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {source}")]
pub struct SystemError {
    operation: &'static str,
    object: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(operation: &'static str, object: &str) -> impl FnOnce(E) -> SystemError {
    move |source| SystemError { operation, object: object.to_owned(), source: source.into() }
}

/// Mounts what commands expect, for a guest that has just started.
///
/// # Errors
/// A file system that the kernel lacks, or no memory.
pub fn start() -> Result<(), SystemError> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_new("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755")?;
    mount_new("proc", "/proc", quiet, "")?;
    mount_new("sysfs", "/sys", quiet, "")?;
    mount_new("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=620,ptmxmode=666,gid=5")?;
    mount_new("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let (link, target) = (format!("/dev/{name}"), format!("/proc/self/fd{target}"));
        std::os::unix::fs::symlink(target, &link).map_err(failed("make", &link))?;
    }
    sys::loopback_up().map_err(failed("bring up", "the loopback interface"))
}

/// Gives this guest its own random numbers and the time, before anything can have used either.
///
/// # Errors
/// What is wrong, in words for the one who asked.
pub fn renew(renewal: &Renewal<'_>) -> Result<(), String> {
    let bytes = renewal.entropy;
    if bytes.len() < ENTROPY_BYTES {
        return Err(format!("{} random bytes are too few; send {ENTROPY_BYTES} or more", bytes.len()));
    }
    sys::reseed(bytes).map_err(|error| format!("take random bytes: {error}"))?;
    let (seconds, nanoseconds) = (renewal.unix_time_ns / 1_000_000_000, renewal.unix_time_ns % 1_000_000_000);
    let time = i64::try_from(seconds).ok().zip(i64::try_from(nanoseconds).ok());
    let (tv_sec, tv_nsec) = time.ok_or_else(|| format!("{seconds} seconds since 1970 are too many"))?;
    clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec }).map_err(|errno| format!("set the clock: {errno}"))
}

/// Does what [`Setup`] asks for.
///
/// # Errors
/// What is wrong, in words for the one who asked.
pub fn prepare(setup: &Setup<'_>) -> Result<(), String> {
    rustix::system::sethostname(setup.hostname.as_bytes())
        .map_err(|errno| format!("set the host name {:?}: {errno}", setup.hostname))?;
    match &setup.root {
        Some(root) => enter_root(root).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

/// Ends all processes, writes everything to the disks, and powers the machine off. Returns only if that fails.
#[must_use]
pub fn power_off() -> SystemError {
    // PID 1 is spared by this, and the kernel does not let it return before the signals are on their way.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
    // A process that is gone has no file open for writing any more.
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    rustix::fs::sync();
    // A root in memory, or one that was never writable, has nothing to be closed.
    let _ = mount_remount("/", MountFlags::RDONLY, "");
    match rustix::system::reboot(RebootCommand::PowerOff) {
        Ok(()) => failed("power off", "the machine")(io::Error::other("it is still on")),
        Err(errno) => failed("power off", "the machine")(errno),
    }
}

fn mount_new(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<(), SystemError> {
    mount_at(kind, kind, target, flags, options)
}

/// Mounts on a folder that is made if it is missing.
fn mount_at(source: &str, kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<(), SystemError> {
    let options = std::ffi::CString::new(options).map_err(failed("mount", target))?;
    let attempt = || mount(source, target, kind, flags, options.as_c_str());
    // Most folders are there, and looking first costs an emulated kernel milliseconds.
    let done = match attempt() {
        Err(Errno::NOENT) => make_folder(target).map(|()| attempt())?,
        done => done,
    };
    done.map_err(failed("mount", target))
}

fn make_folder(path: &str) -> Result<(), SystemError> {
    if Path::new(path).is_dir() {
        Ok(())
    } else {
        std::fs::create_dir_all(path).map_err(failed("make the folder", path))
    }
}

/// Makes a disk the root of this process, and so of all commands.
fn enter_root(root: &Root<'_>) -> Result<(), SystemError> {
    let staged = stage(root)?;
    for folder in ["dev", "proc", "sys"] {
        let target = format!("{staged}/{folder}");
        make_folder(&target)?;
        mount_move(format!("/{folder}"), &target).map_err(failed("move a mount to", &target))?;
    }
    mount_new("tmpfs", &format!("{staged}/run"), MountFlags::NOSUID | MountFlags::NODEV, "mode=755")?;
    // The initramfs can't be unmounted, so the new root is moved on top of it (as switch_root(8) does).
    rustix::process::chdir(&staged).map_err(failed("enter", &staged))?;
    mount_move(".", "/").map_err(failed("move", "the root disk to /"))?;
    rustix::process::chroot(".").map_err(failed("change", "the root"))?;
    rustix::process::chdir("/").map_err(failed("enter", "/"))
}

/// Mounts the disk, with an overlay in memory if it is not to be written to. Returns where.
fn stage(root: &Root<'_>) -> Result<String, SystemError> {
    let disk = format!("{STAGING}/disk");
    let kind = FileSystem::of(root.device)?;
    if root.writable {
        if kind == FileSystem::Squashfs {
            let refused =
                io::Error::other("squashfs can't be written to; use the image with :ro, which keeps changes in memory");
            return Err(failed("mount", root.device)(refused));
        }
        mount_at(root.device, kind.name(), &disk, MountFlags::NOATIME, "")?;
        return Ok(disk);
    }
    mount_at(root.device, kind.name(), &disk, MountFlags::RDONLY, kind.read_only_options())?;
    let (memory, top) = (format!("{STAGING}/memory"), format!("{STAGING}/top"));
    mount_new("tmpfs", &memory, MountFlags::empty(), "mode=755")?;
    let (upper, scratch) = (format!("{memory}/upper"), format!("{memory}/work"));
    make_folder(&upper)?;
    make_folder(&scratch)?;
    let options = format!("lowerdir={disk},upperdir={upper},workdir={scratch}");
    mount_new("overlay", &top, MountFlags::empty(), &options)?;
    Ok(top)
}

/// A file system that a root may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSystem {
    Ext4,
    Squashfs,
}

impl FileSystem {
    /// Tells by the magic number: that of ext4 is `ef53`, little-endian, at 0x438; that of squashfs is `hsqs` at 0.
    fn of(device: &str) -> Result<Self, SystemError> {
        let mut start = [0; 0x43a];
        File::open(device).and_then(|file| file.read_exact_at(&mut start, 0)).map_err(failed("read", device))?;
        if start.starts_with(b"hsqs") {
            Ok(Self::Squashfs)
        } else if start.ends_with(&[0x53, 0xef]) {
            Ok(Self::Ext4)
        } else {
            Err(failed("mount", device)(io::Error::other("it is neither an ext4 nor a squashfs image")))
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
        }
    }

    /// A journal is left as it is, because replaying it would write.
    fn read_only_options(self) -> &'static str {
        match self {
            Self::Ext4 => "noload",
            Self::Squashfs => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_magic_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let kind = |at: usize, magic: &[u8]| {
            let mut image = vec![0; 4096];
            image[at..at + magic.len()].copy_from_slice(magic);
            std::fs::write(&path, image).unwrap();
            FileSystem::of(path.to_str().unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(kind(0, b"hsqs"), Ok(FileSystem::Squashfs));
        assert_eq!(kind(0x438, &[0x53, 0xef]), Ok(FileSystem::Ext4));
        assert!(kind(0, b"XFSB").unwrap_err().contains("neither an ext4 nor a squashfs image"));
        std::fs::write(&path, "short").unwrap();
        assert!(FileSystem::of(path.to_str().unwrap()).unwrap_err().to_string().starts_with("read "));
    }
}
