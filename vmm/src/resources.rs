//! What the guest will have: checked, and opened, when it is asked for. Nothing is built yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use stockade_boot::{CommandLine, CommandLineError, DEFAULT_BOOT_ARGS};
use stockade_devices::virtio::block::{self, BackingError};
use stockade_devices::virtio::vsock::{HostEndpoint, HostError};
use stockade_vmm_api::boot_source::BootSource;
use stockade_vmm_api::cpu_template::CpuTemplate;
use stockade_vmm_api::drive::{Drive, DriveError, IoEngine};
use stockade_vmm_api::entropy::Entropy;
use stockade_vmm_api::machine_config::{MachineConfig, MachineConfigError, MachineConfigPatch};
use stockade_vmm_api::serial::Serial;
use stockade_vmm_api::vm_config::VmConfig;
use stockade_vmm_api::vsock::{Vsock, VsockError};

use crate::descriptors::{self, Access, Descriptors, OpenError};
use crate::snapshot::SavedConfig;

/// Something that the guest can't have. The text begins as Firecracker's does, as clients look for that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// `/boot-source`
    #[error("Boot source error: kernel_image_path: {0}")]
    Kernel(#[source] OpenError),
    /// `/boot-source`
    #[error("Boot source error: initrd_path: {0}")]
    Initramfs(#[source] OpenError),
    /// `/boot-source`
    #[error("Boot source error: boot_args: {0}")]
    CommandLine(#[from] CommandLineError),
    /// `/machine-config`
    #[error("Machine config error: {0}")]
    Machine(#[from] MachineConfigError),
    /// `/drives/{id}`
    #[error("Drive config error: drive {id:?}: {source}")]
    Drive {
        /// Name of the drive.
        id: String,
        /// Why.
        source: DriveError,
    },
    /// `/drives/{id}`
    #[error("Drive config error: drive {id:?}: path_on_host: {source}")]
    DriveFile {
        /// Name of the drive.
        id: String,
        /// Why.
        source: OpenError,
    },
    /// `/drives/{id}`
    #[error("Drive config error: drive {id:?}: path_on_host {path:?}: {source}")]
    DriveBacking {
        /// Name of the drive.
        id: String,
        /// Its file.
        path: String,
        /// Why.
        source: BackingError,
    },
    /// `/drives/{id}`
    #[error(
        "Drive config error: drive {id:?}: is_root_device: {other:?} is the root device already; set it false for one of \
         them"
    )]
    SecondRoot {
        /// Name of the drive.
        id: String,
        /// Name of the root device.
        other: String,
    },
    /// `/vsock`
    #[error("Vsock config error: {0}")]
    Vsock(#[from] VsockError),
    /// `/vsock`
    #[error("Vsock config error: uds_path: {0}")]
    VsockHost(#[from] HostError),
    /// `/vsock`
    #[error("Vsock config error: uds_path: {0}")]
    VsockDescriptor(#[from] OpenError),
}

/// What is to be booted.
#[derive(Debug)]
pub struct Boot {
    config: BootSource,
    /// The kernel's image.
    pub kernel: File,
    /// The initramfs.
    pub initramfs: Option<File>,
    /// The command line, without what the vmm adds.
    pub command_line: CommandLine,
}

/// A drive and its open file.
#[derive(Debug)]
pub struct OpenDrive {
    /// What was asked for.
    pub config: Drive,
    /// Its image, open for what `config` says.
    pub file: File,
}

/// A vsock device, and where its connections lead to.
#[derive(Debug)]
pub struct OpenVsock {
    /// What was asked for.
    pub config: Vsock,
    /// The host's end.
    pub endpoint: HostEndpoint,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Resources {
    /// Processors and memory.
    pub machine: MachineConfig,
    /// Whether a client has said what they are.
    machine_is_set: bool,
    /// Changes to the processor that the guest sees.
    pub template: Option<CpuTemplate>,
    /// What is to be booted.
    pub boot: Option<Boot>,
    /// Drives in the guest's order: the root device first.
    pub drives: Vec<OpenDrive>,
    /// The vsock device.
    pub vsock: Option<OpenVsock>,
    /// The entropy device.
    pub entropy: Option<Entropy>,
    /// The console.
    pub serial: Serial,
}

impl Resources {
    /// Sets what is to be booted.
    ///
    /// # Errors
    /// If it can't be opened. This and every other setter changes nothing then.
    pub fn set_boot_source(&mut self, config: BootSource, descriptors: &Descriptors) -> Result<(), ResourceError> {
        let open = |path: &str| descriptors.open(path, Access::Read);
        let kernel = open(&config.kernel_image_path).map_err(ResourceError::Kernel)?;
        let initramfs = config.initrd_path.as_deref().map(open).transpose().map_err(ResourceError::Initramfs)?;
        let command_line = CommandLine::new(config.boot_args.as_deref().unwrap_or(DEFAULT_BOOT_ARGS))?;
        self.boot = Some(Boot { config, kernel, initramfs, command_line });
        Ok(())
    }

    /// Sets processors and memory.
    ///
    /// # Errors
    /// If no machine is like that.
    pub fn set_machine(&mut self, config: MachineConfig) -> Result<(), ResourceError> {
        self.machine = config.validated()?;
        self.machine_is_set = true;
        Ok(())
    }

    /// Changes processors and memory.
    ///
    /// # Errors
    /// If no machine is like that.
    pub fn patch_machine(&mut self, patch: &MachineConfigPatch) -> Result<(), ResourceError> {
        self.machine = self.machine.patched(patch)?;
        self.machine_is_set = true;
        Ok(())
    }

    /// Adds a drive, or replaces the one of the same name.
    ///
    /// # Errors
    /// If its file can't be one, or it would be a second root device.
    pub fn set_drive(&mut self, mut config: Drive, descriptors: &Descriptors) -> Result<(), ResourceError> {
        let id = config.drive_id.clone();
        let path = config.validate().map_err(|source| ResourceError::Drive { id: id.clone(), source })?.to_owned();
        if config.is_root_device
            && let Some(other) = self.drives.iter().find(|drive| drive.config.is_root_device)
            && other.config.drive_id != id
        {
            return Err(ResourceError::SecondRoot { id, other: other.config.drive_id.clone() });
        }
        let access = if config.read_only() { Access::Read } else { Access::ReadWrite };
        let file =
            descriptors.open(&path, access).map_err(|source| ResourceError::DriveFile { id: id.clone(), source })?;
        block::check_file(&file, block_access(&config)).map_err(|source| ResourceError::DriveBacking {
            id: id.clone(),
            path,
            source,
        })?;

        // What Firecracker shows of a drive that left these out.
        config.is_read_only.get_or_insert(false);
        config.io_engine.get_or_insert(IoEngine::Sync);
        let is_root = config.is_root_device;
        let drive = OpenDrive { config, file };
        let place = self.drives.iter().position(|other| other.config.drive_id == id);
        match place {
            Some(index) if !is_root => {
                if let Some(old) = self.drives.get_mut(index) {
                    *old = drive;
                }
            }
            _ => {
                self.drives.retain(|other| other.config.drive_id != id);
                let index = if is_root { 0 } else { self.drives.len() };
                self.drives.insert(index, drive);
            }
        }
        Ok(())
    }

    /// Sets the vsock device, and makes its socket unless that is inherited.
    ///
    /// # Errors
    /// If the socket can't be made.
    pub fn set_vsock(&mut self, config: Vsock, descriptors: &mut Descriptors) -> Result<(), ResourceError> {
        config.validate()?;
        let endpoint = match descriptors::name_of(&config.uds_path) {
            Some(name) => inherited_endpoint(name, descriptors)?,
            None => {
                if descriptors.is_sealed() {
                    return Err(OpenError::Sealed(config.uds_path).into());
                }
                // The socket of the device that this one replaces is removed first: it may be the same path.
                self.vsock = None;
                HostEndpoint::bind(Path::new(&config.uds_path))?
            }
        };
        self.vsock = Some(OpenVsock { config, endpoint });
        Ok(())
    }

    /// Whether nothing has been set that a snapshot brings along.
    pub fn are_untouched(&self) -> bool {
        let nothing = self.boot.is_none() && self.drives.is_empty() && self.vsock.is_none() && self.entropy.is_none();
        nothing && !self.machine_is_set
    }

    /// Sets what a VM had that was saved.
    ///
    /// # Errors
    /// At the first thing that can't be had.
    pub fn restore(&mut self, config: SavedConfig, descriptors: &mut Descriptors) -> Result<(), ResourceError> {
        self.set_machine(config.machine_config)?;
        for drive in config.drives {
            self.set_drive(drive, descriptors)?;
        }
        if let Some(vsock) = config.vsock {
            self.set_vsock(vsock, descriptors)?;
        }
        self.entropy = config.entropy;
        Ok(())
    }

    /// The answer to `GET /vm/config`.
    pub fn describe(&self) -> VmConfig {
        VmConfig {
            drives: self.drives.iter().map(|drive| drive.config.clone()).collect(),
            boot_source: self.boot.as_ref().map(|boot| boot.config.clone()).unwrap_or_default(),
            machine_config: self.machine,
            vsock: self.vsock.as_ref().map(|vsock| vsock.config.clone()),
            entropy: self.entropy,
            ..VmConfig::default()
        }
    }
}

fn inherited_endpoint(name: &str, descriptors: &mut Descriptors) -> Result<HostEndpoint, OpenError> {
    let listener = descriptors.take(name).ok_or_else(|| OpenError::NotInherited(name.to_owned()))?;
    let ports: BTreeMap<u32, OwnedFd> = descriptors
        .numbered(&format!("{name}_"))
        .into_iter()
        .filter_map(|(name, port)| Some((port, descriptors.take(&name)?)))
        .collect();
    Ok(HostEndpoint::from_descriptors(Some(listener), ports))
}

/// What a drive's file is opened for.
pub fn block_access(config: &Drive) -> block::Access {
    if config.read_only() { block::Access::ReadOnly } else { block::Access::ReadWrite }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::SnapshotFiles;

    struct Fixture {
        folder: tempfile::TempDir,
        descriptors: Descriptors,
        resources: Resources,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let descriptors = Descriptors::inherit(Vec::new(), SnapshotFiles::HandedOver).unwrap();
            Self { folder, descriptors, resources: Resources::default() }
        }

        fn file(&self, name: &str) -> String {
            let path = self.folder.path().join(name);
            std::fs::write(&path, [0; 512]).unwrap();
            path.to_str().unwrap().to_owned()
        }

        fn set_drive(&mut self, id: &str, is_root_device: bool) -> Result<(), ResourceError> {
            let path_on_host = Some(self.file("disk"));
            let config = Drive { drive_id: id.to_owned(), is_root_device, path_on_host, ..Drive::default() };
            self.resources.set_drive(config, &self.descriptors)
        }

        fn drives(&self) -> Vec<&str> {
            self.resources.drives.iter().map(|drive| drive.config.drive_id.as_str()).collect()
        }
    }

    #[test]
    fn the_root_device_is_first_and_a_drive_keeps_its_place() {
        let mut fixture = Fixture::new();
        for (id, root) in [("a", false), ("b", false), ("root", true), ("a", false), ("root", true)] {
            fixture.set_drive(id, root).unwrap();
        }
        assert_eq!(fixture.drives(), ["root", "a", "b"]);
        assert!(matches!(fixture.set_drive("a", true), Err(ResourceError::SecondRoot { .. })));
        assert_eq!(fixture.drives(), ["root", "a", "b"]);
        fixture.set_drive("root", false).unwrap();
        fixture.set_drive("a", true).unwrap();
        assert_eq!(fixture.drives(), ["a", "root", "b"]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let mut fixture = Fixture::new();
        let path_on_host = Some(fixture.folder.path().to_str().unwrap().to_owned());
        let config = Drive { drive_id: "d".to_owned(), path_on_host, is_read_only: Some(true), ..Drive::default() };
        let error = fixture.resources.set_drive(config, &fixture.descriptors).unwrap_err();
        assert!(matches!(error, ResourceError::DriveBacking { .. }), "{error}");
    }

    #[test]
    fn a_second_vsock_device_replaces_the_first() {
        let mut fixture = Fixture::new();
        let path = fixture.folder.path().join("vsock");
        for guest_cid in [3, 4] {
            let config = Vsock { vsock_id: None, guest_cid, uds_path: path.to_str().unwrap().to_owned() };
            fixture.resources.set_vsock(config, &mut fixture.descriptors).unwrap();
            assert!(path.exists());
        }
        assert_eq!(fixture.resources.describe().vsock.unwrap().guest_cid, 4);
        drop(fixture.resources);
        assert!(!path.exists());
    }

    #[test]
    fn a_wrong_boot_source_changes_nothing() {
        let mut fixture = Fixture::new();
        let kernel_image_path = fixture.file("kernel");
        let good = BootSource { kernel_image_path, ..BootSource::default() };
        fixture.resources.set_boot_source(good.clone(), &fixture.descriptors).unwrap();
        let bad = BootSource { boot_args: Some("x".repeat(3000)), ..good.clone() };
        assert!(fixture.resources.set_boot_source(bad, &fixture.descriptors).is_err());
        let missing = BootSource { initrd_path: Some("/nowhere".to_owned()), ..good.clone() };
        let error = fixture.resources.set_boot_source(missing, &fixture.descriptors).unwrap_err().to_string();
        assert!(error.contains("initrd_path") && error.contains("/nowhere"), "{error}");
        assert_eq!(fixture.resources.describe().boot_source, good);
    }
}
