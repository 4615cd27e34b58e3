//! Everything of the host that a run needs, opened and checked before anything is made.

use std::fs::File;
use std::path::Path;

use stockade_guest_protocol::kernel_command_line;

use super::RunError;
use crate::config::vmm_configuration;
use crate::images;
use crate::installation::Installation;
use crate::machine::launch::{Blueprint, Origin};
use crate::report::Start;
use crate::request::{BootMode, RunRequest};
use crate::transfer::Destination;
use crate::warm::{self, Ingredients, Unfit, WarmGuest};

/// What a run needs besides its machine.
pub(super) struct Resources {
    /// Where copies from the guest go.
    pub(super) destinations: Vec<Destination>,
    /// Where the guest comes from.
    pub(super) start: Start,
}

impl Resources {
    /// Opens what `request` names, and the parts of Stockade that it needs.
    pub(super) fn open(request: &RunRequest, installation: &Installation) -> Result<(Self, Blueprint), RunError> {
        let destinations = destinations(request)?;
        let jailer = installation.open_jailer()?;
        let vmm = installation.open_vmm()?;
        let kernel = images::open_kernel(request.kernel.as_deref().unwrap_or(&installation.kernel()))?;
        let initramfs = images::open_initramfs(request.initramfs.as_deref().unwrap_or(&installation.initramfs()))?;
        let needed = kernel.length.saturating_add(initramfs.length);
        if needed >= request.memory.bytes() {
            let mib = needed >> 20;
            return Err(RunError::Request(format!(
                "--memory {}: kernel and initramfs alone have {mib} MiB; give the guest twice that",
                request.memory
            )));
        }
        let root = request.root.as_ref().map(images::open_root).transpose()?;
        let access = request.root.as_ref().map(|root| root.access);
        let command_line = kernel_command_line(request.cpus.get());
        let configuration = vmm_configuration(request.cpus, request.memory, command_line, access);
        let (kernel, initramfs) = (kernel.file, initramfs.file);
        let ingredients =
            Ingredients { vmm: &vmm, kernel: &kernel, initramfs: &initramfs, configuration: &configuration };
        let (start, origin) = match booted_guest(request, installation, &ingredients) {
            Ok(guest) => (Start::Warm, Origin::Snapshot(guest)),
            Err(Unfit(because)) => (Start::Cold { because }, Origin::Boot { kernel, initramfs, configuration }),
        };
        let blueprint = Blueprint {
            name: request.name.clone(),
            cpus: request.cpus,
            memory: request.memory,
            origin,
            new_snapshot: None,
            jailer,
            vmm,
            kvm: open_kvm()?,
            root: root.map(|image| image.file),
            without: request.without.clone(),
        };
        Ok((Self { destinations, start }, blueprint))
    }
}

/// Where copies from the guest go. What is copied to it is looked at, too.
pub(super) fn destinations(request: &RunRequest) -> Result<Vec<Destination>, RunError> {
    for copy in &request.copy_in {
        let found = std::fs::metadata(&copy.host);
        found.map_err(|error| RunError::Request(format!("--copy-in {}: {error}", copy.host.display())))?;
    }
    Ok(request.copy_out.iter().map(Destination::resolve).collect::<Result<_, _>>()?)
}

/// The booted guest that `request` may start from.
fn booted_guest(
    request: &RunRequest,
    installation: &Installation,
    ingredients: &Ingredients<'_>,
) -> Result<WarmGuest, Unfit> {
    let unfit = |because: &str| Err(Unfit(because.to_owned()));
    if request.boot == BootMode::Always {
        return unfit("--cold was given");
    }
    if request.root.is_some() {
        return unfit("--rootfs was given, and a booted guest has no disk");
    }
    if request.kernel.is_some() || request.initramfs.is_some() {
        return unfit("--kernel or --initramfs was given");
    }
    WarmGuest::open(&warm::folder(installation, request.cpus, request.memory), ingredients)
}

/// Opens `/dev/kvm`.
pub(crate) fn open_kvm() -> Result<File, RunError> {
    let path = Path::new("/dev/kvm");
    File::options().read(true).write(true).open(path).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "this host has no KVM; turn on virtualization in its firmware and modprobe kvm_intel or kvm_amd"
            }
            std::io::ErrorKind::PermissionDenied => "join the group that the device belongs to, or use sudo",
            _ => "check the device",
        };
        RunError::Request(format!("open /dev/kvm: {error}; {remedy}"))
    })
}
