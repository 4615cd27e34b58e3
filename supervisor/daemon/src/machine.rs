//! One virtual machine at work: a task that opens its files, launches it, passes on what is heard of it, and does what the
//! table wants done with it, until it is gone.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use stockade_api::{Error, ErrorCode, ExitCause, VmId};
use stockade_config::model::{Boot, Definition, DiskAccess, Vsock};
use stockade_guest_protocol::kernel_command_line;
use stockade_supervisor::config::{descriptor, inherited};
use stockade_supervisor::installation::Installation;
use stockade_supervisor::machine::MachineEnd;
use stockade_supervisor::machine::detached::{Detached, Notice};
use stockade_supervisor::machine::launch_detached::{Agent, DetachedBlueprint, LimitChanges, launch_detached};
use stockade_supervisor::machine::request;
use stockade_supervisor::machine::state::State;
use stockade_supervisor::request::VmName;
use stockade_supervisor::text::chain;
use stockade_vmm_api::boot_source::BootSource;
use stockade_vmm_api::drive::{CacheType, Drive};
use stockade_vmm_api::entropy::Entropy;
use stockade_vmm_api::exit::ExitReason;
use stockade_vmm_api::machine_config::MachineConfig;
use stockade_vmm_api::rate_limiter::{RateLimiter, TokenBucket};
use stockade_vmm_api::serial::Serial;
use stockade_vmm_api::vm_config::ConfigFile;
use stockade_vmm_api::vsock::{GUEST_CID_MIN, Vsock as VsockConfig};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::open::{Use, open};
use crate::store::Store;
use crate::table::{Input, Jail, MachineEvent, Record};

/// Milliseconds in which a rate counts.
const RATE_MS: u64 = 1000;

/// What all of them share.
#[derive(Debug)]
pub struct Workshop {
    /// The daemon's files.
    pub store: Store,
    /// Stockade's programs, and the default guest.
    pub installation: Installation,
    /// Where jails are.
    pub jails: State,
}

/// What is to be done with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ask the guest to stop.
    Ask,
    /// End it.
    Kill,
    /// Have it stand still.
    Pause,
    /// Have it go on.
    Resume,
}

/// Who is told.
#[derive(Debug, Clone)]
struct Ear {
    vm: VmId,
    generation: u64,
    inputs: UnboundedSender<Input>,
}

impl Ear {
    fn tell(&self, event: MachineEvent) {
        // Without a listener the daemon is at its end.
        let _ = self.inputs.send(Input::Machine { vm: self.vm, generation: self.generation, event });
    }
}

/// Launches a machine, and stays with it.
pub async fn launch(
    workshop: Arc<Workshop>,
    record: Record,
    orders: UnboundedReceiver<Order>,
    inputs: UnboundedSender<Input>,
) {
    let ear = Ear { vm: record.id, generation: record.generation, inputs };
    let opener = workshop.clone();
    let opened = tokio::task::spawn_blocking(move || blueprint(&opener, &record)).await;
    let launched = opened.unwrap_or_else(|error| Err(internal(&error))).and_then(|blueprint| {
        launch_detached(&workshop.jails, blueprint)
            .map_err(|error| Error::new(ErrorCode::StartFailed, chain(&error), "look at the daemon's log"))
    });
    match launched {
        Ok(machine) => accompany(machine, orders, &ear).await,
        Err(error) => ear.tell(MachineEvent::NotStarted(error)),
    }
}

/// Takes over a machine of the daemon before this one, and stays with it.
pub async fn take_over(
    workshop: Arc<Workshop>,
    record: Record,
    orders: UnboundedReceiver<Order>,
    inputs: UnboundedSender<Input>,
) {
    let ear = Ear { vm: record.id, generation: record.generation, inputs };
    let taken = record.jail_name().parse::<VmName>().map_err(|error| internal(&error)).and_then(|jail| {
        let journal = workshop.store.journal(jail.as_str()).map_err(|error| internal(&error))?;
        Detached::take_over(&workshop.jails, &jail, journal).map_err(|error| internal(&error))
    });
    match taken {
        Ok(machine) => accompany(machine, orders, &ear).await,
        Err(error) => ear.tell(MachineEvent::Ended { cause: ExitCause::Unknown, message: error.to_string() }),
    }
}

async fn accompany(mut machine: Detached, mut orders: UnboundedReceiver<Order>, ear: &Ear) {
    loop {
        tokio::select! {
            biased;
            Some(order) = orders.recv() => obey(&machine, order, ear),
            notice = machine.next() => match notice {
                Notice::Confined { pid, identity } => ear.tell(MachineEvent::Confined(Jail { pid, identity })),
                Notice::Started => ear.tell(MachineEvent::Started),
                Notice::Paused => ear.tell(MachineEvent::Paused),
                Notice::Resumed => ear.tell(MachineEvent::Resumed),
                Notice::Gone { end, left_behind } => {
                    for left in left_behind {
                        log::error!("virtual machine {}: left behind: {left}", ear.vm);
                    }
                    ear.tell(end.map_or(MachineEvent::NeverLaunched, |end| event_of(&end)));
                    return;
                }
            },
        }
    }
}

fn obey(machine: &Detached, order: Order, ear: &Ear) {
    let (folder, ear) = (machine.folder().to_owned(), ear.clone());
    match order {
        Order::Kill => machine.kill(),
        Order::Ask => drop(tokio::spawn(async move { ask_to_stop(&folder, &ear).await })),
        Order::Pause => drop(tokio::spawn(async move {
            if let Err(error) = request::pause(&folder).await {
                ear.tell(MachineEvent::NotPaused(chain(&error)));
            }
        })),
        Order::Resume => drop(tokio::spawn(async move {
            if let Err(error) = request::resume(&folder).await {
                ear.tell(MachineEvent::NotPaused(chain(&error)));
            }
        })),
    }
}

/// By its agent, or else by the keys that every system knows. Who does neither is ended when its time is over.
async fn ask_to_stop(folder: &Path, ear: &Ear) {
    let Err(no_agent) = request::power_off(folder).await else { return };
    if let Err(error) = request::ctrl_alt_del(folder).await {
        log::info!("virtual machine {}: it can't be asked to stop: {}; {}", ear.vm, chain(&no_agent), chain(&error));
    }
}

fn event_of(end: &MachineEnd) -> MachineEvent {
    let cause = match end {
        MachineEnd::Refused(message) => {
            return MachineEvent::NotStarted(Error::new(ErrorCode::StartFailed, message.clone(), ""));
        }
        MachineEnd::Guest { reason, .. } => match reason {
            ExitReason::Reset => ExitCause::Reset,
            ExitReason::PowerOff => ExitCause::PowerOff,
            ExitReason::Halted => ExitCause::Halted,
            ExitReason::TripleFault | ExitReason::Panicked | ExitReason::InternalError | ExitReason::EntryFailure => {
                ExitCause::Crashed
            }
        },
        MachineEnd::Warden(_) => ExitCause::Unknown,
        _ => ExitCause::Failed,
    };
    MachineEvent::Ended { cause, message: end.to_string() }
}

fn internal(error: &dyn std::error::Error) -> Error {
    Error::new(ErrorCode::Internal, chain(error), "look at the daemon's log")
}

/// Opens everything that the machine needs.
fn blueprint(workshop: &Workshop, record: &Record) -> Result<DetachedBlueprint, Error> {
    let Workshop { store, installation, .. } = workshop;
    let program = |error: stockade_supervisor::installation::InstallationError| {
        Error::new(ErrorCode::StartFailed, chain(&error), "")
    };
    let definition = &record.definition;
    let mut images = Vec::new();
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
    let has_initramfs = initramfs.is_some();
    images.push((descriptor::KERNEL.to_owned(), kernel));
    images.extend(initramfs.map(|file| (descriptor::INITRAMFS.to_owned(), file)));
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
    Ok(DetachedBlueprint {
        cpus: definition.cpus,
        guest_bytes: definition.memory.bytes(),
        limits: LimitChanges {
            cpu_percent: definition.limits.cpu_percent,
            overhead_bytes: definition.limits.overhead.map(|size| size.bytes()),
            processes: definition.limits.processes,
        },
        configuration: configuration(definition, has_initramfs),
        jailer: installation.open_jailer().map_err(program)?,
        vmm: installation.open_vmm().map_err(program)?,
        kvm: kvm.map_err(|error| {
            Error::new(ErrorCode::StartFailed, format!("/dev/kvm: {error}"), "this host has to have KVM")
        })?,
        images,
        journal: store.make_journal(&jail).map_err(|error| internal(&error))?,
        console_ring,
        console_input: console_input.into(),
        agent: if definition.boot == Boot::Default { Agent::Connects } else { Agent::Unknown },
        jail: jail.parse().map_err(|error: stockade_supervisor::request::InvalidValue| internal(&error))?,
    })
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
