//! A virtual machine, from resources to its end.
//!
//! ```text
//! start:  KVM -> load -> board -> vCPU threads, paused -> pledge -> let go
//! ```
//! What can fail comes before what can't be repeated, so that a client may repair its configuration and start again.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_manager::SubscriberOps;
use seccomp_filters::{PledgeError, Role};
use stockade_boot::{BootError, BootSource, CommandLine, CommandLineError, Platform, RootAccess, VirtioMmio};
use stockade_devices::guest_request::GuestRequest;
use stockade_devices::legacy::boot_timer::Timestamp;
use stockade_devices::legacy::i8042::I8042Error;
use stockade_devices::legacy::serial::UartStateError;
use stockade_devices::legacy::{Console, I8042, SerialPort};
use stockade_devices::virtio::Memory;
use stockade_devices::virtio::mmio::MmioTransport;
use stockade_devices::virtio::state::DeviceStateError;
use stockade_machine::{
    Buses, Clock, DirtyLog, GroupError, GuestEnd, Hypervisor, HypervisorError, Machine, MachineError, MachineSpec,
    MemorySpec, Saving, StateError, ThreadsPerCore, VcpuGroup, write_all, write_memory,
};
use stockade_vmm_api::event::EventKind;
use stockade_vmm_api::instance::InstanceState;
use vmm_sys_util::eventfd::EventFd;

use crate::board::{self, Board, BoardError, EventLoop};
use crate::descriptors::{self, Descriptors, OpenError};
use crate::events::Events;
use crate::resources::{Boot, Resources};
use crate::snapshot::{SavedConfig, SavedVm, SnapshotFileError};
use crate::threads::Filters;
use crate::wake::Wake;

/// How long the guest's last console output is waited for, if nobody reads it.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// A VM that can't be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Nothing to boot.
    #[error("there is no kernel; send PUT /boot-source first")]
    NoKernel,
    /// The descriptor of `/dev/kvm`.
    #[error(transparent)]
    Descriptor(#[from] OpenError),
    /// KVM.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// Memory or vCPUs.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The command line with what the vmm adds.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// Kernel or initramfs.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The vCPU threads.
    #[error(transparent)]
    Vcpus(#[from] GroupError),
    /// A saved state with other devices.
    #[error("the state has {found} virtio devices, and its configuration {expected}")]
    DeviceCount {
        /// In the state.
        found: usize,
        /// In the configuration.
        expected: usize,
    },
    /// The saved state of a device.
    #[error("the state of virtio device {index}: {source}")]
    Device {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: DeviceStateError,
    },
    /// The saved state of the serial port.
    #[error(transparent)]
    Serial(#[from] UartStateError),
    /// What wakes the event loop.
    #[error("duplicate eventfd: {0}")]
    Wake(#[from] std::io::Error),
}

/// A VM that runs can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The vCPUs.
    #[error(transparent)]
    Vcpus(#[from] GroupError),
    /// The event loop.
    #[error("wait for events: {0}")]
    EventLoop(event_manager::Error),
    /// The filter.
    #[error(transparent)]
    Pledge(#[from] PledgeError),
}

/// A VM that can't be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// vCPUs or interrupt controllers.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state file.
    #[error(transparent)]
    File(#[from] SnapshotFileError),
    /// The state file.
    #[error("write the state file: {0}")]
    WriteState(std::io::Error),
    /// The memory file.
    #[error("write the memory file: {0}")]
    WriteMemory(std::io::Error),
}

/// What the VM is started with, beside its resources.
#[derive(Debug, Clone, Copy)]
pub struct StartOptions {
    /// When the process began, for a guest with a boot timer.
    pub boot_timer: Option<Timestamp>,
    /// Whether system calls are filtered.
    pub filters: Filters,
}

/// A started VM.
pub struct Vm {
    vcpus: VcpuGroup,
    events: EventLoop,
    console: Arc<Mutex<Console>>,
    keyboard: Arc<I8042>,
    request: Arc<GuestRequest>,
    serial: Arc<SerialPort>,
    virtio: Vec<Arc<MmioTransport>>,
    memory: Memory,
    state: InstanceState,
    next_look: Instant,
}

impl Vm {
    /// Builds the VM that `resources` describe. Its vCPUs wait for [`resume`](Self::resume). [`turn`](Self::turn) also
    /// returns when `requests` is readable.
    ///
    /// # Errors
    /// If that can't be done. `resources` are as before then, or without the vsock device if that was what failed.
    pub fn build(
        resources: &mut Resources,
        descriptors: &Descriptors,
        options: StartOptions,
        events: &mut Events,
        requests: &EventFd,
    ) -> Result<Self, StartError> {
        let places = board::places(resources)?;
        let machine = create_machine(resources, descriptors)?;
        events.emit(EventKind::KvmReady);

        let boot = resources.boot.as_mut().ok_or(StartError::NoKernel)?;
        let root = resources.drives.first().filter(|drive| drive.config.is_root_device).map(|drive| &drive.config);
        let command_line = command_line(boot, root, &places)?;
        log::debug!("kernel command line: {command_line}");
        let source =
            BootSource { kernel: &mut boot.kernel, initramfs: boot.initramfs.as_mut(), command_line: &command_line };
        let platform = Platform { vcpus: resources.machine.vcpu_count, virtio_mmio: &places };
        let entry = stockade_boot::load(machine.memory(), source, &platform)?;
        log::info!("kernel loaded, entered by the {} protocol", entry.protocol);
        machine.set_entry(&entry)?;
        events.emit(EventKind::Loaded);

        let mut board = Board::new(&machine, resources, descriptors)?;
        if let Some(start) = options.boot_timer {
            board.add_boot_timer(start)?;
        }
        board.add_virtio_devices(resources)?;
        let parts = Parts::of(board);
        Self::assemble(machine, parts, options, requests)
    }

    /// Builds the VM that was saved as `saved`, with a copy of the memory in `memory`. `resources` are those that the state
    /// names. As with [`build`](Self::build), it waits.
    ///
    /// # Errors
    /// If the state is of another host, or of no VM at all.
    pub fn restore(
        resources: &mut Resources,
        saved: (&SavedVm, &File, Clock),
        descriptors: &Descriptors,
        options: StartOptions,
        events: &mut Events,
        requests: &EventFd,
    ) -> Result<Self, StartError> {
        let (saved, memory, clock) = saved;
        let (found, expected) = (saved.devices.len(), board::places(resources)?.len());
        if found != expected {
            return Err(StartError::DeviceCount { found, expected });
        }
        let hypervisor = open_hypervisor(descriptors)?;
        let spec = machine_spec(resources, descriptors);
        let machine = hypervisor.create_machine()?.restore(&spec, &saved.machine, memory, clock)?;
        events.emit(EventKind::KvmReady);
        let mut board = Board::new(&machine, resources, descriptors)?;
        board.add_virtio_devices(resources)?;
        board.serial.restore(&saved.serial)?;
        board.keyboard.restore(&saved.keyboard);
        for (index, (device, state)) in board.virtio.iter().zip(&saved.devices).enumerate() {
            device.restore(state).map_err(|source| StartError::Device { index, source })?;
        }
        events.emit(EventKind::Loaded);
        let parts = Parts::of(board);
        Self::assemble(machine, parts, options, requests)
    }

    fn assemble(machine: Machine, parts: Parts, options: StartOptions, requests: &EventFd) -> Result<Self, StartError> {
        let Parts { buses, mut events, console, keyboard, serial, virtio } = parts;
        let request = buses.request.clone();
        for event in [request.event(), requests] {
            events.add_subscriber(Box::new(Wake::on(event)?));
        }
        let memory = machine.memory().clone();
        let filters = options.filters;
        let vcpus = machine.start_vcpus(buses, move || {
            if let Err(error) = filters.pledge(Role::Vcpu) {
                log::error!("confine vCPU thread: {error}");
                std::process::exit(1);
            }
        })?;
        let (state, next_look) = (InstanceState::Paused, Instant::now());
        Ok(Self { vcpus, events, console, keyboard, request, serial, virtio, memory, state, next_look })
    }

    /// Saves it: all but the memory to `state`, and that to `memory`. It has been [paused](Self::pause).
    ///
    /// # Errors
    /// If a file can't be written. The VM is as before.
    pub fn save(&self, config: &SavedConfig, state: &File, memory: &File) -> Result<(), SaveError> {
        let devices = self.virtio.iter().map(|device| device.save()).collect();
        let saved = SavedVm::new(config, self.vcpus.save()?, self.serial.save(), self.keyboard.save(), devices)?;
        let bytes = saved.encode()?;
        write_memory(&self.memory, memory).map_err(SaveError::WriteMemory)?;
        let write = || {
            state.set_len(0)?;
            write_all(state, 0, &bytes)?;
            state.sync_data()
        };
        write().map_err(SaveError::WriteState)
    }

    /// Whether it runs.
    pub fn state(&self) -> InstanceState {
        self.state
    }

    /// Lets vCPUs and devices go on.
    ///
    /// # Errors
    /// If a vCPU can't be had to.
    pub fn resume(&mut self) -> Result<(), RunError> {
        self.vcpus.resume()?;
        self.state = InstanceState::Running;
        self.next_look = Instant::now();
        Ok(())
    }

    /// Stops vCPUs and devices. The latter stand still because [`turn`](Self::turn) is not to be called until
    /// [`resume`](Self::resume); what happens meanwhile stays readable from their descriptors.
    ///
    /// # Errors
    /// If a vCPU can't be stopped.
    pub fn pause(&mut self) -> Result<(), RunError> {
        self.vcpus.pause()?;
        self.state = InstanceState::Paused;
        Ok(())
    }

    /// Presses Ctrl+Alt+Del.
    ///
    /// # Errors
    /// If the guest has left no room for it.
    pub fn press_ctrl_alt_del(&self) -> Result<(), I8042Error> {
        self.keyboard.type_ctrl_alt_del()
    }

    /// Waits for something to happen, and lets the devices do their part.
    ///
    /// # Errors
    /// If the event loop fails.
    pub fn turn(&mut self) -> Result<(), RunError> {
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + self.vcpus.look_for_halt()?;
        }
        self.wait(self.next_look.saturating_duration_since(now))
    }

    /// How the guest ended, if it did.
    pub fn end(&self) -> Option<GuestEnd> {
        self.request.reason()?;
        self.vcpus.end()
    }

    /// Stops it for good, and sees to it that the console's reader gets the last output, if it reads.
    ///
    /// # Errors
    /// If a vCPU can't be stopped, or the event loop fails.
    pub fn finish(mut self) -> Result<(), RunError> {
        self.pause()?;
        let deadline = Instant::now() + LAST_OUTPUT;
        while self.console.lock().unwrap_or_else(PoisonError::into_inner).flush() > 0 && Instant::now() < deadline {
            self.wait(Duration::from_millis(1))?;
        }
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<(), RunError> {
        let milliseconds = limit.as_micros().div_ceil(1000);
        match self.events.run_with_timeout(i32::try_from(milliseconds).unwrap_or(i32::MAX)) {
            Ok(_) => Ok(()),
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => Ok(()),
            Err(error) => Err(RunError::EventLoop(error)),
        }
    }
}

/// What is left of a board when it is complete.
struct Parts {
    buses: Buses,
    events: EventLoop,
    console: Arc<Mutex<Console>>,
    keyboard: Arc<I8042>,
    serial: Arc<SerialPort>,
    virtio: Vec<Arc<MmioTransport>>,
}

impl Parts {
    fn of(board: Board<'_>) -> Self {
        let Board { buses, events, console, keyboard, serial, virtio, .. } = board;
        Self { buses, events, console, keyboard, serial, virtio }
    }
}

fn create_machine(resources: &Resources, descriptors: &Descriptors) -> Result<Machine, StartError> {
    if resources.boot.is_none() {
        return Err(StartError::NoKernel);
    }
    let hypervisor = open_hypervisor(descriptors)?;
    Ok(hypervisor.create_machine()?.build(&machine_spec(resources, descriptors))?)
}

fn open_hypervisor(descriptors: &Descriptors) -> Result<Hypervisor, StartError> {
    let hypervisor = Hypervisor::open(descriptors.duplicate(descriptors::KVM)?)?;
    log::info!("{}", hypervisor.host());
    Ok(hypervisor)
}

fn machine_spec<'a>(resources: &'a Resources, descriptors: &Descriptors) -> MachineSpec<'a> {
    let config = &resources.machine;
    MachineSpec {
        vcpus: config.vcpu_count,
        threads_per_core: if config.smt { ThreadsPerCore::Two } else { ThreadsPerCore::One },
        memory: MemorySpec {
            bytes: (config.mem_size_mib as u64).saturating_mul(1 << 20),
            huge_pages: config.huge_pages,
            dirty_log: if config.track_dirty_pages { DirtyLog::On } else { DirtyLog::Off },
        },
        template: resources.template.as_ref(),
        saving: if descriptors.may_be_saved() { Saving::Possible } else { Saving::Never },
    }
}

/// What the kernel is told: the client's arguments, the root device, the places of the virtio devices.
fn command_line(
    boot: &Boot,
    root: Option<&stockade_vmm_api::drive::Drive>,
    places: &[VirtioMmio],
) -> Result<CommandLine, CommandLineError> {
    let mut line = boot.command_line.clone();
    if let Some(root) = root {
        let access = if root.read_only() { RootAccess::ReadOnly } else { RootAccess::ReadWrite };
        match &root.partuuid {
            Some(uuid) => line.push_root(&format!("PARTUUID={uuid}"), access)?,
            None => line.push_root("/dev/vda", access)?,
        }
    }
    for place in places {
        line.push_virtio_mmio(place)?;
    }
    Ok(line)
}
