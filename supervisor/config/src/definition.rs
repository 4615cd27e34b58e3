//! What a definition has to be, wherever it comes from: a file, a template, or a tenant's request.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};
use stockade_vmm_api::vsock::GUEST_CID_MIN;

use crate::model::{Boot, BootDevice, Definition, DiskFormat, EncryptedMemory, Interface, MacAddress, Rdomain, Vsock};

/// Why a definition can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDefinition {
    /// No vCPU, or more than the vmm can do.
    #[error("invalid number of cpus: {0} (must be 1..{max})", max = Definition::MAX_CPUS)]
    Cpus(u8),
    /// Too many of something.
    #[error("too many {what}: {count}; use at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there can be.
        limit: usize,
    },
    /// There is nothing to start from.
    #[error("no kernel or disk/cdrom specified; add boot, disk or cdrom")]
    NothingToBoot,
    /// The boot device is not there.
    #[error("boot device {0} is not there; add one")]
    NoBootDevice(&'static str),
    /// A command line, and no kernel to say it to.
    #[error("cmdline needs a kernel; add boot \"path\" or boot default")]
    CommandLineWithoutKernel,
    /// Too long for a kernel, or not text.
    #[error("invalid cmdline; use at most {max} bytes, no control characters, and no '\\' at the end", max = Definition::MAX_COMMAND_LINE_BYTES)]
    CommandLine,
    /// A path that is not absolute, or not plain text.
    #[error("invalid path {}; use an absolute path without '..' and control characters", .0.display())]
    Path(PathBuf),
    /// One disk twice.
    #[error("disk {} is there twice", .0.display())]
    DiskTwice(PathBuf),
    /// A limit on a disk that lets nothing through.
    #[error("the rate of disk {} is 0", .0.display())]
    DiskRate(PathBuf),
    /// A tap that is not called `tap` and a number.
    #[error("invalid interface: {0}; use tap or tap and a number")]
    Tap(String),
    /// An interface group that can't be.
    #[error("invalid group name: {0}; use 1 to 15 letters, digits, '.', '-' and '_', the last of which is no digit")]
    Group(String),
    /// A name of a switch that can't be.
    #[error("invalid switch name: {0}; use 1 to 63 characters")]
    Switch(String),
    /// A name of a VRF that can't be.
    #[error("invalid rdomain: {0}; use a number from 0 to 255 or the name of a VRF")]
    Rdomain(String),
    /// Two interfaces with one address.
    #[error("lladdr {0} is there twice")]
    LladdrTwice(MacAddress),
    /// Two interfaces with one name.
    #[error("interface {0} is there twice")]
    TapTwice(String),
    /// A context id that is not a guest's.
    #[error("invalid vsock context id: {0}; use {GUEST_CID_MIN} to 4294967294")]
    ContextId(u32),
    /// An owner that nobody can be.
    #[error("4294967295 is no user or group")]
    Owner,
    /// A limit of 0.
    #[error("invalid limit {0}: 0; leave it out for one that fits the size of the vm")]
    Limit(&'static str),
    /// A timeout that is too long.
    #[error("invalid stop timeout: {0}; use 0 to {max} seconds", max = Definition::MAX_STOP_TIMEOUT_SECONDS)]
    StopTimeout(u32),
}

impl Definition {
    /// Checks what can be told without asking the host.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), InvalidDefinition> {
        if !(1..=Self::MAX_CPUS).contains(&self.cpus) {
            return Err(InvalidDefinition::Cpus(self.cpus));
        }
        self.validate_boot()?;
        self.validate_disks()?;
        self.validate_interfaces()?;
        if let Some(Vsock::ContextId(id)) = self.vsock
            && (id < GUEST_CID_MIN || id == u32::MAX)
        {
            return Err(InvalidDefinition::ContextId(id));
        }
        let owners = [Some(self.owner), self.instances.owner];
        if owners.into_iter().flatten().any(|owner| owner.uid == u32::MAX || owner.gid == Some(u32::MAX)) {
            return Err(InvalidDefinition::Owner);
        }
        if self.limits.cpu_percent == Some(0) {
            return Err(InvalidDefinition::Limit("cpu"));
        }
        if self.limits.processes == Some(0) {
            return Err(InvalidDefinition::Limit("processes"));
        }
        match self.stop_timeout_seconds {
            Some(seconds) if seconds > Self::MAX_STOP_TIMEOUT_SECONDS => Err(InvalidDefinition::StopTimeout(seconds)),
            _ => Ok(()),
        }
    }

    fn validate_boot(&self) -> Result<(), InvalidDefinition> {
        if !self.is_bootable() {
            return Err(InvalidDefinition::NothingToBoot);
        }
        match self.boot_device {
            Some(BootDevice::Cdrom) if self.cdrom.is_none() => return Err(InvalidDefinition::NoBootDevice("cdrom")),
            Some(BootDevice::Disk) if self.disks.is_empty() => return Err(InvalidDefinition::NoBootDevice("disk")),
            Some(BootDevice::Net) if self.interfaces.is_empty() => return Err(InvalidDefinition::NoBootDevice("net")),
            _ => {}
        }
        let mut paths: Vec<_> = self.cdrom.iter().collect();
        if let Boot::Kernel { path, initramfs } = &self.boot {
            paths.push(path);
            paths.extend(initramfs);
        }
        if let Some(path) = paths.into_iter().find(|path| !is_plain_path(path)) {
            return Err(InvalidDefinition::Path(path.clone()));
        }
        let Some(command_line) = &self.command_line else { return Ok(()) };
        if self.boot == Boot::Firmware {
            return Err(InvalidDefinition::CommandLineWithoutKernel);
        }
        let is_valid = command_line.len() <= Self::MAX_COMMAND_LINE_BYTES && is_plain_text(command_line);
        if is_valid { Ok(()) } else { Err(InvalidDefinition::CommandLine) }
    }

    fn validate_disks(&self) -> Result<(), InvalidDefinition> {
        let (count, limit) = (self.disks.len(), Self::MAX_DISKS);
        if count > limit {
            return Err(InvalidDefinition::TooMany { what: "disks", count, limit });
        }
        let mut seen = HashSet::new();
        for disk in &self.disks {
            if !is_plain_path(&disk.path) {
                return Err(InvalidDefinition::Path(disk.path.clone()));
            }
            if !seen.insert(&disk.path) {
                return Err(InvalidDefinition::DiskTwice(disk.path.clone()));
            }
            if disk.rate.bytes_per_second == Some(0) || disk.rate.operations_per_second == Some(0) {
                return Err(InvalidDefinition::DiskRate(disk.path.clone()));
            }
        }
        Ok(())
    }

    fn validate_interfaces(&self) -> Result<(), InvalidDefinition> {
        let (count, limit) = (self.interfaces.len(), Self::MAX_INTERFACES);
        if count > limit {
            return Err(InvalidDefinition::TooMany { what: "interfaces", count, limit });
        }
        let (mut addresses, mut taps) = (HashSet::new(), HashSet::new());
        for interface in &self.interfaces {
            validate_interface(interface)?;
            if let Some(address) = interface.lladdr.filter(|address| !addresses.insert(*address)) {
                return Err(InvalidDefinition::LladdrTwice(address));
            }
            if let Some(tap) = interface.tap.as_ref().filter(|tap| !taps.insert(*tap)) {
                return Err(InvalidDefinition::TapTwice(tap.clone()));
            }
        }
        Ok(())
    }
}

fn validate_interface(interface: &Interface) -> Result<(), InvalidDefinition> {
    if let Some(tap) = interface.tap.as_ref().filter(|tap| !is_tap(tap)) {
        return Err(InvalidDefinition::Tap(tap.clone()));
    }
    if let Some(group) = interface.group.as_ref().filter(|group| !is_interface_group(group)) {
        return Err(InvalidDefinition::Group(group.clone()));
    }
    if let Some(switch) = interface.switch.as_ref().filter(|switch| !is_switch_name(switch)) {
        return Err(InvalidDefinition::Switch(switch.clone()));
    }
    match &interface.rdomain {
        Some(Rdomain::Name(name)) if !is_interface_name(name) => Err(InvalidDefinition::Rdomain(name.clone())),
        _ => Ok(()),
    }
}

/// Text that vm.conf can have: it has no way to write control characters, or a backslash at the end.
pub(crate) fn is_plain_text(text: &str) -> bool {
    !text.chars().any(char::is_control) && !text.ends_with('\\')
}

fn is_plain_path(path: &std::path::Path) -> bool {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(is_plain) && path.to_str().is_some_and(is_plain_text)
}

/// `tap` and a number, as long as names of interfaces can be.
pub(crate) fn is_tap(name: &str) -> bool {
    let unit = name.strip_prefix("tap");
    unit.is_some_and(|unit| !unit.is_empty() && unit.bytes().all(|byte| byte.is_ascii_digit()))
        && is_interface_name(name)
}

/// What Linux takes for the name of an interface (`dev_valid_name`), without what shells would trip over.
pub(crate) fn is_interface_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'@');
    (1..=15).contains(&name.len()) && name.bytes().all(is_good) && !matches!(name, "." | "..") && !name.starts_with('-')
}

pub(crate) fn is_interface_group(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=15).contains(&name.len()) && name.bytes().all(is_good) && !name.ends_with(|last: char| last.is_ascii_digit())
}

pub(crate) fn is_switch_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && is_plain_text(name)
}

/// What a VM needs and Stockade does not have yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Missing {
    /// Firmware, which VMs without `boot` start from.
    Firmware,
    /// `boot device`, which firmware looks at.
    BootDevice,
    /// CD-ROM drives.
    Cdrom,
    /// Disks in the format qcow2.
    Qcow2,
    /// Network interfaces.
    Interfaces,
    /// Encrypted memory.
    EncryptedMemory,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Firmware => "there is no firmware yet; add boot \"kernel\" or boot default",
            Self::BootDevice => "there is no firmware yet; remove boot device",
            Self::Cdrom => "there are no cdrom drives yet; use disk \"image\" readonly",
            Self::Qcow2 => "disks can't have the format qcow2 yet; convert the image to raw",
            Self::Interfaces => "there are no network interfaces yet; remove interface and interfaces",
            Self::EncryptedMemory => "memory can't be encrypted yet; remove sev or seves",
        })
    }
}

impl Definition {
    /// What is missing to start it. Such a VM can be defined, but not started.
    pub fn missing(&self) -> Vec<Missing> {
        let needs = [
            (Missing::Firmware, self.boot == Boot::Firmware),
            (Missing::BootDevice, self.boot_device.is_some()),
            (Missing::Cdrom, self.cdrom.is_some()),
            (Missing::Qcow2, self.disks.iter().any(|disk| disk.format == DiskFormat::Qcow2)),
            (Missing::Interfaces, !self.interfaces.is_empty()),
            (Missing::EncryptedMemory, self.encrypted_memory != EncryptedMemory::Off),
        ];
        needs.into_iter().filter(|(_, needed)| *needed).map(|(missing, _)| missing).collect()
    }
}
