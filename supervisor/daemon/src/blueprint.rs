//! What a machine is made of: every file opened, with the rights of who named it, and what its vmm is told.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use stockade_api::request::BootMode;
use stockade_api::{Error, ErrorCode};
use stockade_config::model::{Boot, Definition, DiskAccess, Vsock};
use stockade_guest_protocol::kernel_command_line;
use stockade_supervisor::config::{clone_configuration, descriptor, inherited};
use stockade_supervisor::installation::Installation;
use stockade_supervisor::machine::launch_detached::{Agent, DetachedBlueprint, LimitChanges};
use stockade_supervisor::text::chain;
use stockade_supervisor::warm::{self, Ingredients, WarmGuest};
use stockade_vmm_api::boot_source::BootSource;
use stockade_vmm_api::drive::{CacheType, Drive};
use stockade_vmm_api::entropy::Entropy;
use stockade_vmm_api::machine_config::MachineConfig;
use stockade_vmm_api::rate_limiter::{RateLimiter, TokenBucket};
use stockade_vmm_api::serial::Serial;
use stockade_vmm_api::vm_config::{ConfigFile, StartFile};
use stockade_vmm_api::vsock::{GUEST_CID_MIN, Vsock as VsockConfig};

use crate::machine::{Workshop, internal};
use crate::open::{Use, open};
use crate::table::{Held, Record};

/// Milliseconds in which a rate counts.
const RATE_MS: u64 = 1000;

/// Opens everything that the machine needs. The second is the host's end of the connection of its agent, if a client gets it.
pub(crate) fn blueprint(workshop: &Workshop, record: &Record) -> Result<(DetachedBlueprint, Option<OwnedFd>), Error> {
    let Workshop { store, installation, .. } = workshop;
    let program = |error: stockade_supervisor::installation::InstallationError| {
        Error::new(ErrorCode::StartFailed, chain(&error), "")
    };
    let definition = &record.definition;
    let root = crate::table::Caller::root();
    let (kernel, initramfs) = match &definition.boot {
        Boot::Kernel { path, initramfs } => {
            let load = |path: &Path| open(&record.opener(path), path, Use::Load);
            (load(path)?, initramfs.as_deref().map(load).transpose()?)
        }
        Boot::Default | Boot::Firmware => {
            let load = |path: &Path| open(&root, path, Use::Load);
            (load(&installation.kernel())?, Some(load(&installation.initramfs())?))
        }
    };
    let configuration = configuration(definition, initramfs.is_some());
    let vmm = installation.open_vmm().map_err(program)?;
    let clone = kept_guest(installation, record, &vmm, &kernel, initramfs.as_ref(), &configuration);
    let (configuration, mut images) = match clone {
        Some(guest) => {
            let [state, memory] = descriptor::SNAPSHOT.map(str::to_owned);
            (StartFile::Snapshot(clone_configuration()), vec![(state, guest.state), (memory, guest.memory)])
        }
        None => {
            let initramfs = initramfs.map(|file| (descriptor::INITRAMFS.to_owned(), file));
            let kernel = (descriptor::KERNEL.to_owned(), kernel);
            (StartFile::Boot(configuration), std::iter::once(kernel).chain(initramfs).collect())
        }
    };
    for (number, disk) in definition.disks.iter().enumerate() {
        let usage = match disk.access {
            DiskAccess::ReadOnly => Use::ReadOnlyDisk,
            DiskAccess::ReadWrite => Use::WritableDisk,
        };
        images.push((disk_name(number), open(&record.opener(&disk.path), &disk.path, usage)?));
    }
    let jail = record.jail_name();
    let (console_ring, console_input) = store.console(record.id).map_err(|error| internal(&error))?;
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    let (agent, host_end) = agent(record).map_err(|error| internal(&error))?;
    let blueprint = DetachedBlueprint {
        cpus: definition.cpus,
        guest_bytes: definition.memory.bytes(),
        limits: LimitChanges {
            cpu_percent: definition.limits.cpu_percent,
            overhead_bytes: definition.limits.overhead.map(|size| size.bytes()),
            processes: definition.limits.processes,
        },
        configuration,
        jailer: installation.open_jailer().map_err(program)?,
        vmm,
        kvm: kvm.map_err(|error| {
            Error::new(ErrorCode::StartFailed, format!("/dev/kvm: {error}"), "this host has to have KVM")
        })?,
        images,
        journal: store.make_journal(&jail).map_err(|error| internal(&error))?,
        console_ring,
        console_input: console_input.into(),
        agent,
        jail: jail.parse().map_err(|error: stockade_supervisor::request::InvalidValue| internal(&error))?,
    };
    Ok((blueprint, host_end))
}

/// Who the guest's agent talks to, and the other end of that if a client is to get it.
fn agent(record: &Record) -> io::Result<(Agent, Option<OwnedFd>)> {
    if record.held.is_some() {
        let (host, guest) = UnixStream::pair()?;
        return Ok((Agent::Given(guest.into()), Some(host.into())));
    }
    let agent = match record.definition.boot {
        Boot::Default => Agent::Named(record.name.to_string()),
        Boot::Kernel { .. } | Boot::Firmware => Agent::Unknown,
    };
    Ok((agent, None))
}

/// The booted guest that a machine may be cloned from which runs one command. Any other boots.
fn kept_guest(
    installation: &Installation,
    record: &Record,
    vmm: &File,
    kernel: &File,
    initramfs: Option<&File>,
    configuration: &ConfigFile,
) -> Option<WarmGuest> {
    let Definition { boot: Boot::Default, cpus, memory, .. } = &record.definition else { return None };
    let (Some(Held { boot: BootMode::IfNeeded }), Some(initramfs)) = (record.held, initramfs) else { return None };
    let (cpus, memory) = (cpus.to_string().parse().ok()?, format!("{}M", memory.mib()).parse().ok()?);
    let ingredients = Ingredients { vmm, kernel, initramfs, configuration };
    let guest = WarmGuest::open(&warm::folder(installation, cpus, memory), &ingredients);
    guest.inspect_err(|unfit| log::debug!("{} boots: {unfit}", record.name)).ok()
}

fn disk_name(number: usize) -> String {
    format!("disk{number}")
}

/// What the vmm reads: every path in it is a descriptor that it inherits.
fn configuration(definition: &Definition, has_initramfs: bool) -> ConfigFile {
    let mut command_line = kernel_command_line(definition.cpus);
    if let Some(more) = &definition.command_line {
        command_line.push(' ');
        command_line.push_str(more);
    }
    let drives = definition.disks.iter().enumerate().map(|(number, disk)| {
        let bucket = |size: u64| TokenBucket { size, one_time_burst: None, refill_time: RATE_MS };
        let limiter = RateLimiter {
            bandwidth: disk.rate.bytes_per_second.map(bucket),
            ops: disk.rate.operations_per_second.map(u64::from).map(bucket),
        };
        let read_only = disk.access == DiskAccess::ReadOnly;
        Drive {
            drive_id: disk_name(number),
            is_root_device: false,
            is_read_only: Some(read_only),
            cache_type: if read_only { CacheType::Unsafe } else { CacheType::Writeback },
            path_on_host: Some(inherited(&disk_name(number))),
            rate_limiter: (!limiter.is_empty()).then_some(limiter),
            ..Drive::default()
        }
    });
    let vsock = definition.vsock.or((definition.boot == Boot::Default).then_some(Vsock::Automatic));
    let guest_cid = |vsock| match vsock {
        // Each vmm has a device of its own, so that numbers need not differ.
        Vsock::Automatic => GUEST_CID_MIN,
        Vsock::ContextId(id) => id,
    };
    ConfigFile {
        boot_source: BootSource {
            kernel_image_path: inherited(descriptor::KERNEL),
            initrd_path: has_initramfs.then(|| inherited(descriptor::INITRAMFS)),
            boot_args: Some(command_line),
        },
        machine_config: Some(MachineConfig {
            vcpu_count: definition.cpus,
            mem_size_mib: usize::try_from(definition.memory.mib()).unwrap_or(usize::MAX),
            ..MachineConfig::default()
        }),
        drives: drives.collect(),
        vsock: vsock.map(|vsock| VsockConfig {
            vsock_id: None,
            guest_cid: guest_cid(vsock),
            uds_path: inherited(descriptor::VSOCK),
        }),
        entropy: Some(Entropy::default()),
        serial: Some(Serial { serial_out_path: Some(inherited(descriptor::CONSOLE)), rate_limiter: None }),
        ..ConfigFile::default()
    }
}
