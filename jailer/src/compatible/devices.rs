//! The device nodes of a jail.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat};

use super::tree::{Tree, TreeError};
use super::undo::Undo;

/// Major numbers (devices.txt of the kernel's documentation).
const MEMORY: u32 = 1;
const MISCELLANEOUS: u32 = 10;

/// What a vmm does with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Reads from it.
    Read,
    /// Asks it for things by ioctl(2).
    Control,
}

/// A device.
#[derive(Debug, Clone, Copy)]
struct Device {
    name: &'static str,
    major: u32,
    minor: u32,
    used: Use,
}

const KVM: Device = Device { name: "kvm", major: MISCELLANEOUS, minor: 232, used: Use::Control };
const RANDOM: Device = Device { name: "urandom", major: MEMORY, minor: 9, used: Use::Read };
const TUN: Device = Device { name: "tun", major: MISCELLANEOUS, minor: 200, used: Use::Control };

/// Makes the device nodes in the jail's `/dev` and `/dev/net`, both of which are held, for a user.
pub(super) fn make(
    dev: &Tree,
    net: &Tree,
    (uid, gid): (u32, u32),
    undo: &mut Undo,
) -> Result<Vec<(OwnedFd, Use)>, TreeError> {
    let page_faults = page_fault_device().map(|minor| Device { name: "userfaultfd", minor, ..KVM });
    let devices = [Some((dev, KVM)), Some((dev, RANDOM)), Some((net, TUN)), page_faults.map(|device| (dev, device))];
    let make = |(folder, device): (&Tree, Device)| make_one(folder, device, (uid, gid), undo);
    devices.into_iter().flatten().map(make).collect()
}

fn make_one(
    folder: &Tree,
    device: Device,
    (uid, gid): (u32, u32),
    undo: &mut Undo,
) -> Result<(OwnedFd, Use), TreeError> {
    let name = OsStr::new(device.name);
    let number = makedev(device.major, device.minor);
    let make = || mknodat(folder, name, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number);
    folder.make(name, make, undo)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    folder.named(name, chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    Ok((folder.open_path(name)?, device.used))
}

/// Minor number of `/dev/userfaultfd`, which is not the same everywhere, if the kernel has it.
fn page_fault_device() -> Option<u32> {
    // Room for all of it, as the kernel writes it anew for each part that is read.
    let mut devices = String::with_capacity(4096);
    File::open("/proc/misc").ok()?.read_to_string(&mut devices).ok()?;
    minor_number(&devices, "userfaultfd")
}

fn minor_number(devices: &str, wanted: &str) -> Option<u32> {
    let pairs = devices.lines().filter_map(|line| line.trim().split_once(' '));
    pairs.filter(|(_, name)| *name == wanted).find_map(|(number, _)| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_numbers_are_found_by_name() {
        let devices = "257 userfaultfd\n232 kvm\n  1 psaux\nx broken\n";
        assert_eq!(minor_number(devices, "kvm"), Some(232));
        assert_eq!(minor_number(devices, "psaux"), Some(1));
        assert_eq!(minor_number(devices, "broken"), None);
        assert_eq!(minor_number(devices, "vsock"), None);
    }
}
