//! Instances: VMs that take from a template what they don't say themselves, as far as the template lets them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::definition::InvalidDefinition;
use crate::model::{
    Boot, BootDevice, Definition, Disk, DiskAccess, EncryptedMemory, InstancePolicy, Interface, Limits, MacAddress,
    MemorySize, Override, Owner, Vsock,
};

/// What is said about a VM; what is not said comes from the template, or is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// Number of vCPUs.
    pub cpus: Option<u8>,
    /// Memory.
    pub memory: Option<MemorySize>,
    /// What runs first.
    pub boot: Option<Boot>,
    /// What is said to the kernel.
    pub command_line: Option<String>,
    /// What the firmware tries.
    pub boot_device: Option<BootDevice>,
    /// Disks of its own. A template's disks are taken over only if they are read-only: other ones belong to one VM.
    pub disks: Vec<Disk>,
    /// The image in the CD-ROM drive.
    pub cdrom: Option<PathBuf>,
    /// Interfaces; those that the template has beyond them are taken over.
    pub interfaces: Vec<Interface>,
    /// The vsock device.
    pub vsock: Option<Vsock>,
    /// Whether its memory is encrypted.
    pub encrypted_memory: Option<EncryptedMemory>,
    /// The user whose it is.
    pub uid: Option<u32>,
    /// The group whose it is.
    pub gid: Option<u32>,
    /// Who may make instances of it.
    pub instances: Option<InstancePolicy>,
    /// What it may use of the host.
    pub limits: Limits,
    /// Seconds that the guest has to go down by itself.
    pub stop_timeout_seconds: Option<u32>,
}

impl Overrides {
    /// The definition of a VM that is no instance.
    ///
    /// # Errors
    /// Something in it is out of bounds.
    pub fn into_definition(self) -> Result<Definition, InvalidDefinition> {
        let default = Definition::default();
        let definition = Definition {
            cpus: self.cpus.unwrap_or(default.cpus),
            memory: self.memory.unwrap_or(default.memory),
            boot: self.boot.unwrap_or(default.boot),
            command_line: self.command_line,
            boot_device: self.boot_device,
            disks: self.disks,
            cdrom: self.cdrom,
            interfaces: self.interfaces,
            vsock: self.vsock,
            encrypted_memory: self.encrypted_memory.unwrap_or(default.encrypted_memory),
            owner: Owner { uid: self.uid.unwrap_or(default.owner.uid), gid: self.gid },
            instances: self.instances.unwrap_or_default(),
            limits: self.limits,
            stop_timeout_seconds: self.stop_timeout_seconds,
        };
        definition.validate()?;
        Ok(definition)
    }
}

/// Who wants an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester<'a> {
    /// The user.
    pub uid: u32,
    /// All groups of the user.
    pub groups: &'a [u32],
}

impl Requester<'_> {
    /// Root, who writes vm.conf.
    pub const ROOT: Requester<'static> = Requester { uid: 0, groups: &[] };

    fn is_root(self) -> bool {
        self.uid == 0
    }

    fn is(self, owner: Owner) -> bool {
        self.uid == owner.uid || owner.gid.is_some_and(|gid| self.groups.contains(&gid))
    }
}

/// Why there is no such instance. The answer to vmd's `ENAMETOOLONG`, `EPERM`, `EBUSY` and 1002.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// The requester may make no instances of this template.
    #[error("not allowed to make instances of this vm; its 'allow instance owner' names who may")]
    NotPermitted,
    /// The template does not let instances choose this.
    #[error("instances may not choose {}; leave it out, or add it to the template's 'allow instance'", describe(*.0))]
    Override(Override),
    /// Only root chooses this.
    #[error("only root may choose {0} of an instance; leave it out")]
    RootOnly(&'static str),
    /// The template has this disk.
    #[error("disk {} is the template's; give the instance one of its own", .0.display())]
    DiskInUse(PathBuf),
    /// An interface of the template has this address.
    #[error("lladdr {0} is the template's; leave it out to get one that nobody has")]
    LladdrInUse(MacAddress),
    /// An interface of the template has this name.
    #[error("interface {0} is the template's; leave the name out to get a free one")]
    TapInUse(String),
    /// The instance would belong to a stranger.
    #[error("user {0} can't own the instance; leave it out, or give yourself or the template's owner")]
    User(u32),
    /// The instance would belong to another group than its template.
    #[error("group {0} can't own the instance; leave it out, or give the template's group")]
    Group(u32),
    /// An instance that makes its own rules.
    #[error("an instance has no 'allow instance' of its own; it has the template's if that allows 'instance'")]
    Rules,
    /// The result is no VM.
    #[error(transparent)]
    Definition(#[from] InvalidDefinition),
}

fn describe(what: Override) -> &'static str {
    match what {
        Override::Boot => "what they boot",
        Override::Cpus => "the number of cpus",
        Override::Memory => "their memory",
        Override::Interface => "interfaces",
        Override::Disk => "disks",
        Override::Cdrom => "the cdrom",
        Override::Vsock => "the vsock",
        Override::Instance => "who makes instances of them",
    }
}

/// The definition of an instance of `template` that differs in `overrides`. Whether its name is free, and whether its addresses, taps and files are,
/// is for the caller to check: that is between all VMs.
///
/// Inherited are: processors, memory, what boots, CD-ROM, read-only disks (before the instance's own), interfaces beyond the instance's own (with
/// fresh names and addresses), vsock (with a fresh context id), owner, limits, stop timeout; and the rules for instances, if these allow it.
///
/// # Errors
/// The first rule that is broken.
pub fn instantiate(
    template: &Definition,
    overrides: &Overrides,
    requester: Requester<'_>,
) -> Result<Definition, InstanceError> {
    let policy = &template.instances;
    if !requester.is_root() && !policy.owner.is_some_and(|owner| requester.is(owner)) {
        return Err(InstanceError::NotPermitted);
    }
    check_overrides(template, overrides, requester)?;
    let definition = Definition {
        cpus: overrides.cpus.unwrap_or(template.cpus),
        memory: overrides.memory.unwrap_or(template.memory),
        boot: overrides.boot.clone().unwrap_or_else(|| template.boot.clone()),
        command_line: overrides.command_line.clone().or_else(|| template.command_line.clone()),
        boot_device: overrides.boot_device.or(template.boot_device),
        disks: disks(template, overrides)?,
        cdrom: overrides.cdrom.clone().or_else(|| template.cdrom.clone()),
        interfaces: interfaces(template, overrides)?,
        vsock: overrides.vsock.or(template.vsock.map(|_| Vsock::Automatic)),
        encrypted_memory: overrides.encrypted_memory.unwrap_or(template.encrypted_memory),
        owner: owner(template.owner, overrides, requester)?,
        instances: if policy.overrides.contains(&Override::Instance) {
            policy.clone()
        } else {
            InstancePolicy::default()
        },
        limits: limits(template.limits, overrides.limits),
        stop_timeout_seconds: overrides.stop_timeout_seconds.or(template.stop_timeout_seconds),
    };
    definition.validate()?;
    Ok(definition)
}

fn check_overrides(
    template: &Definition,
    overrides: &Overrides,
    requester: Requester<'_>,
) -> Result<(), InstanceError> {
    let boots = overrides.boot.is_some() || overrides.command_line.is_some() || overrides.boot_device.is_some();
    let chosen = [
        (Override::Cpus, overrides.cpus.is_some_and(|cpus| cpus != template.cpus)),
        (Override::Memory, overrides.memory.is_some_and(|memory| memory != template.memory)),
        (Override::Disk, !overrides.disks.is_empty()),
        (Override::Interface, !overrides.interfaces.is_empty()),
        (Override::Boot, boots),
        (Override::Cdrom, overrides.cdrom.is_some()),
        (Override::Vsock, overrides.vsock.is_some()),
    ];
    let root_only = [
        ("'sev'", overrides.encrypted_memory.is_some()),
        ("limits", overrides.limits != Limits::default()),
        ("the stop timeout", overrides.stop_timeout_seconds.is_some()),
    ];
    if !requester.is_root() {
        if let Some((what, _)) =
            chosen.iter().find(|(what, given)| *given && !template.instances.overrides.contains(what))
        {
            return Err(InstanceError::Override(*what));
        }
        if let Some((what, _)) = root_only.iter().find(|(_, given)| *given) {
            return Err(InstanceError::RootOnly(what));
        }
    }
    if overrides.instances.is_some() { Err(InstanceError::Rules) } else { Ok(()) }
}

fn disks(template: &Definition, overrides: &Overrides) -> Result<Vec<Disk>, InstanceError> {
    let is_taken = |own: &&Disk| template.disks.iter().any(|disk| disk.path == own.path);
    if let Some(disk) = overrides.disks.iter().find(is_taken) {
        return Err(InstanceError::DiskInUse(disk.path.clone()));
    }
    let shared = template.disks.iter().filter(|disk| disk.access == DiskAccess::ReadOnly);
    Ok(shared.chain(&overrides.disks).cloned().collect())
}

fn interfaces(template: &Definition, overrides: &Overrides) -> Result<Vec<Interface>, InstanceError> {
    for own in &overrides.interfaces {
        for theirs in &template.interfaces {
            if let Some(address) = own.lladdr.filter(|_| own.lladdr == theirs.lladdr) {
                return Err(InstanceError::LladdrInUse(address));
            }
            if let Some(tap) = own.tap.as_ref().filter(|_| own.tap == theirs.tap) {
                return Err(InstanceError::TapInUse(tap.clone()));
            }
        }
    }
    let inherited = template.interfaces.iter().skip(overrides.interfaces.len());
    let inherited = inherited.map(|interface| Interface { lladdr: None, tap: None, ..interface.clone() });
    Ok(overrides.interfaces.iter().cloned().chain(inherited).collect())
}

fn owner(template: Owner, overrides: &Overrides, requester: Requester<'_>) -> Result<Owner, InstanceError> {
    let uid = overrides.uid.unwrap_or(template.uid);
    if !requester.is_root() && uid != requester.uid && uid != template.uid {
        return Err(InstanceError::User(uid));
    }
    match overrides.gid {
        Some(gid) if !requester.is_root() && Some(gid) != template.gid => Err(InstanceError::Group(gid)),
        gid => Ok(Owner { uid, gid: gid.or(template.gid) }),
    }
}

fn limits(template: Limits, own: Limits) -> Limits {
    Limits {
        cpu_percent: own.cpu_percent.or(template.cpu_percent),
        overhead: own.overhead.or(template.overhead),
        processes: own.processes.or(template.processes),
    }
}

#[cfg(test)]
mod tests;
