//! The configuration of a sealed vmm: every path in it is a descriptor that the vmm inherits under that name.

use stockade_vmm_api::boot_source::BootSource;
use stockade_vmm_api::drive::{CacheType, Drive};
use stockade_vmm_api::entropy::Entropy;
use stockade_vmm_api::machine_config::MachineConfig;
use stockade_vmm_api::serial::Serial;
use stockade_vmm_api::snapshot::{MemoryBackend, MemoryBackendType, SnapshotLoad};
use stockade_vmm_api::vm_config::{ConfigFile, SnapshotFile};
use stockade_vmm_api::vsock::{GUEST_CID_MIN, Vsock};

use crate::request::{Access, Cpus, MemorySize};

/// Names of the descriptors that a vmm inherits.
pub mod descriptor {
    /// `/dev/kvm`, open.
    pub const KVM: &str = "kvm";
    /// The kernel.
    pub const KERNEL: &str = "kernel";
    /// The initial RAM disk.
    pub const INITRAMFS: &str = "initramfs";
    /// The image with the command's root.
    pub const ROOT: &str = "root";
    /// The writing end of a pipe that takes the guest's console.
    pub const CONSOLE: &str = "console";
    /// What is typed at the guest's console.
    pub const CONSOLE_INPUT: &str = "console_input";
    /// The writing end of a pipe that takes JSON lines (see [`stockade_vmm_api::event`]).
    pub const EVENTS: &str = "events";
    /// The snapshot that a booted guest comes from: its state, and its memory.
    pub const SNAPSHOT: [&str; 2] = ["snapshot", "memory"];
    /// The files that a guest is saved to: its state, and its memory.
    pub const NEW_SNAPSHOT: [&str; 2] = ["new_snapshot", "new_memory"];
    /// The configuration.
    pub const CONFIG: &str = "config";
    /// The listening socket of the per-VM API.
    pub const API: &str = "api";
    /// The listening socket for connections to the guest.
    pub const VSOCK: &str = "vsock";
    /// The connected socket that the agent's connection goes to.
    pub const AGENT: &str = "vsock_1024";
}

/// Where the guest finds its first block device.
pub const ROOT_DEVICE: &str = "/dev/vda";

/// The configuration of a vmm with `cpus`, `memory`, `command_line`, and a root image that allows `root`.
pub fn vmm_configuration(cpus: Cpus, memory: MemorySize, command_line: String, root: Option<Access>) -> ConfigFile {
    let root = root.map(|access| Drive {
        drive_id: descriptor::ROOT.to_owned(),
        // The agent mounts it; the guest's kernel starts from the initramfs.
        is_root_device: false,
        is_read_only: Some(access == Access::ReadOnly),
        cache_type: if access == Access::ReadOnly { CacheType::Unsafe } else { CacheType::Writeback },
        path_on_host: Some(inherited(descriptor::ROOT)),
        ..Drive::default()
    });
    ConfigFile {
        boot_source: BootSource {
            kernel_image_path: inherited(descriptor::KERNEL),
            initrd_path: Some(inherited(descriptor::INITRAMFS)),
            boot_args: Some(command_line),
        },
        machine_config: Some(MachineConfig {
            vcpu_count: cpus.get(),
            mem_size_mib: usize::try_from(memory.mib()).unwrap_or(usize::MAX),
            ..MachineConfig::default()
        }),
        drives: root.into_iter().collect(),
        vsock: Some(Vsock { vsock_id: None, guest_cid: GUEST_CID_MIN, uds_path: inherited(descriptor::VSOCK) }),
        entropy: Some(Entropy::default()),
        serial: Some(Serial { serial_out_path: Some(inherited(descriptor::CONSOLE)), rate_limiter: None }),
        ..ConfigFile::default()
    }
}

/// What a vmm is told that starts from a snapshot of one with a [`vmm_configuration`].
pub fn clone_configuration() -> SnapshotFile {
    let [state, memory] = descriptor::SNAPSHOT.map(inherited);
    SnapshotFile {
        snapshot: SnapshotLoad {
            snapshot_path: state,
            mem_backend: Some(MemoryBackend { backend_path: memory, backend_type: MemoryBackendType::File }),
            resume_vm: true,
            ..SnapshotLoad::default()
        },
        logger: None,
        serial: Some(Serial { serial_out_path: Some(inherited(descriptor::CONSOLE)), rate_limiter: None }),
    }
}

/// The path that stands for the inherited descriptor `name`.
pub fn inherited(name: &str) -> String {
    format!("fd:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_valid_and_inherited() {
        let (cpus, memory) = ("2".parse().unwrap(), "1G".parse().unwrap());
        let file = vmm_configuration(cpus, memory, "quiet".into(), Some(Access::ReadWrite));
        assert_eq!(file.unavailable(), None);
        file.vsock.as_ref().unwrap().validate().unwrap();
        assert_eq!(file.drives[0].validate(), Ok("fd:root"));
        assert!(!file.drives[0].read_only());
        let machine = file.machine_config.unwrap().validated().unwrap();
        assert_eq!((machine.vcpu_count, machine.mem_size_mib), (2, 1024));

        let file = vmm_configuration(cpus, memory, String::new(), Some(Access::ReadOnly));
        assert!(file.drives[0].read_only());
        assert!(vmm_configuration(cpus, memory, String::new(), None).drives.is_empty());
    }
}
