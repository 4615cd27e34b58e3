//! What a VM is to be.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stockade_vmm_api::machine_config::MAX_VCPUS;

use super::{Interface, MemorySize, VmName};

/// A VM of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// Whether the daemon starts it by itself.
    pub start: StartPolicy,
    /// The VM that it is an instance of. Nothing is left to be taken from there: the definition is complete.
    pub template: Option<VmName>,
    /// What it is to be.
    pub definition: Definition,
}

/// `enable` or `disable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartPolicy {
    /// The daemon starts (or uses) it.
    #[default]
    Enabled,
    /// Only somebody's request does.
    Disabled,
}

/// Everything that is needed to start a VM, besides its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Number of vCPUs, 1 to [`Definition::MAX_CPUS`].
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// What runs first in it.
    pub boot: Boot,
    /// What is said to its kernel, after what Stockade says by itself.
    pub command_line: Option<String>,
    /// `boot device`: what the firmware tries. With it, a reset by the guest ends the VM.
    pub boot_device: Option<BootDevice>,
    /// Its disks, at most [`Definition::MAX_DISKS`].
    pub disks: Vec<Disk>,
    /// The image in its CD-ROM drive.
    pub cdrom: Option<PathBuf>,
    /// Its network interfaces, at most [`Definition::MAX_INTERFACES`].
    pub interfaces: Vec<Interface>,
    /// Its vsock device.
    pub vsock: Option<Vsock>,
    /// Whether its memory is encrypted.
    pub encrypted_memory: EncryptedMemory,
    /// Whose it is.
    pub owner: Owner,
    /// Who may make instances of it, and what these may change.
    pub instances: InstancePolicy,
    /// What it may use of the host besides the guest's memory.
    pub limits: Limits,
    /// Seconds that the guest has to go down by itself, if it isn't [`Globals::stop_timeout_seconds`](super::Globals::stop_timeout_seconds).
    pub stop_timeout_seconds: Option<u32>,
}

impl Definition {
    /// Most vCPUs: what the vmm can do.
    pub const MAX_CPUS: u8 = MAX_VCPUS;
    /// Most disks.
    pub const MAX_DISKS: usize = 4;
    /// Most network interfaces.
    pub const MAX_INTERFACES: usize = 4;
    /// Most bytes of a command line: x86 kernels have no room for more, with what Stockade says itself.
    pub const MAX_COMMAND_LINE_BYTES: usize = 1536;
    /// Longest stop timeout, seconds: a day.
    pub const MAX_STOP_TIMEOUT_SECONDS: u32 = 86_400;

    /// Whether there is something that it could start from.
    pub fn is_bootable(&self) -> bool {
        self.boot != Boot::Firmware || self.cdrom.is_some() || !self.disks.is_empty()
    }
}

impl Default for Definition {
    /// One vCPU, 512 MiB, root's, and nothing else: not [bootable](Definition::is_bootable).
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: MemorySize::DEFAULT,
            boot: Boot::Firmware,
            command_line: None,
            boot_device: None,
            disks: Vec::new(),
            cdrom: None,
            interfaces: Vec::new(),
            vsock: None,
            encrypted_memory: EncryptedMemory::Off,
            owner: Owner::default(),
            instances: InstancePolicy::default(),
            limits: Limits::default(),
            stop_timeout_seconds: None,
        }
    }
}

/// What runs first in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// No `boot`: firmware, which finds something on a disk, a CD-ROM or the network.
    Firmware,
    /// `boot default`: Stockade's own kernel and initramfs, whose agent runs commands.
    Default,
    /// `boot "path"`: this kernel, an ELF file or a bzImage.
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// `initramfs "path"`.
        initramfs: Option<PathBuf>,
    },
}

/// `boot device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootDevice {
    /// The CD-ROM.
    Cdrom,
    /// The first disk.
    Disk,
    /// The first network interface.
    Net,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The image: absolute, without symbolic links.
    pub path: PathBuf,
    /// How it is read.
    pub format: DiskFormat,
    /// What the guest may do.
    pub access: DiskAccess,
    /// How much the guest may do in a second.
    pub rate: DiskRate,
}

/// Format of a disk's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

/// What a guest may do with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskAccess {
    /// Read and write; no other VM has it.
    ReadWrite,
    /// Read; any number of VMs can.
    ReadOnly,
}

/// How much of a disk a guest gets in a second; an absent limit is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRate {
    /// Bytes.
    pub bytes_per_second: Option<u64>,
    /// Requests.
    pub operations_per_second: Option<u32>,
}

/// The vsock device, and its context id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vsock {
    /// `vsock enable`: the daemon takes an id.
    Automatic,
    /// `vsock N`.
    ContextId(u32),
}

/// `sev` and `seves`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EncryptedMemory {
    /// The host can read it.
    Off,
    /// AMD SEV.
    Sev,
    /// AMD SEV-ES: registers too.
    SevEs,
}

/// Whose something is. In vm.conf `"user"`, `"user:group"` or `":group"` (which is root's and that group's); or numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group whose members have the owner's rights as well, if there is one.
    pub gid: Option<u32>,
}

/// `allow instance`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstancePolicy {
    /// Who may make instances besides root: the user, and members of the group. Without it nobody.
    pub owner: Option<Owner>,
    /// What they may choose for themselves.
    pub overrides: BTreeSet<Override>,
}

/// What an instance may differ in from its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Override {
    /// Kernel, initramfs, command line and boot device.
    Boot,
    /// Number of vCPUs.
    Cpus,
    /// Memory.
    Memory,
    /// Network interfaces.
    Interface,
    /// Disks of its own.
    Disk,
    /// The image in the CD-ROM drive.
    Cdrom,
    /// The vsock device.
    Vsock,
    /// Whether there may be instances of the instance, by the template's rules.
    Instance,
}

/// What a VM may use of the host; an absent limit is one that the daemon derives from the VM's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `limit cpu`: percent of one processor's time, so 200 are two processors.
    pub cpu_percent: Option<u32>,
    /// `limit memory`: what vmm and warden need, besides the guest's memory.
    pub overhead: Option<MemorySize>,
    /// `limit processes`: processes and threads.
    pub processes: Option<u32>,
}
