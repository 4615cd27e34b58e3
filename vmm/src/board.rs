//! The board that a guest runs on: its devices at their addresses, wired to KVM and to the event loop.
//!
//! What is the same on every architecture is here. What is not, the devices at fixed places, is in one module each.

#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use stockade_boot::{VirtioMmio, layout};
use stockade_devices::bus::{Bus, BusError};
use stockade_devices::guest_request::GuestRequest;
use stockade_devices::legacy::boot_timer::{self, Timestamp};
use stockade_devices::legacy::console::ConsoleError;
use stockade_devices::legacy::{BootTimer, Console, I8042, SerialPort};
use stockade_devices::rate_limiter::{BucketConfig, RateLimiter, RateLimiterConfig, RateLimiterError};
use stockade_devices::virtio::block::{Block, BlockConfig, BlockError, CacheType, Discard};
use stockade_devices::virtio::core::CoreError;
use stockade_devices::virtio::entropy::Entropy;
use stockade_devices::virtio::mmio::{MMIO_LENGTH, MmioTransport};
use stockade_devices::virtio::vsock::{Vsock, VsockError};
use stockade_devices::virtio::{Memory, VirtioDevice};
use stockade_machine::{Buses, Machine, MachineError};
use stockade_vmm_api::drive;
use stockade_vmm_api::rate_limiter as api;

#[cfg(target_arch = "x86_64")]
use self::x86_64::FixedDevices;
use crate::descriptors::{Access, CONSOLE_INPUT, Descriptors, OpenError};
use crate::resources::{OpenDrive, OpenVsock, Resources, block_access};

/// A device that can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoardError {
    /// There are more devices than places.
    #[error("{0} virtio devices: there is room for {max}; remove drives", max = layout::VIRTIO_GSI_LAST - layout::VIRTIO_GSI_FIRST + 1)]
    TooManyDevices(usize),
    /// A device at a fixed port.
    #[error("create {device}: {source}")]
    Legacy {
        /// Which.
        device: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Where the console's output goes.
    #[error("serial_out_path: {0}")]
    SerialOutput(#[from] OpenError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A limit.
    #[error(transparent)]
    RateLimiter(#[from] RateLimiterError),
    /// A drive.
    #[error("drive {id:?}: {source}")]
    Block {
        /// Its name.
        id: String,
        /// Why.
        source: BlockError,
    },
    /// The file of a drive.
    #[error("duplicate the descriptor of drive {id:?}: {source}")]
    DriveFile {
        /// Its name.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The vsock device.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// The entropy device.
    #[error("entropy device: {0}")]
    Entropy(#[from] CoreError),
    /// Two devices at one place.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A wire to KVM.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The event loop.
    #[error("create the event loop: {0}")]
    EventLoop(event_manager::Error),
}

impl BoardError {
    fn legacy(device: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Legacy { device, source }
    }
}

/// The event loop that runs the devices.
pub type EventLoop = EventManager<Box<dyn MutEventSubscriber>>;

/// Where the virtio devices of these resources are, in the order in which they are added.
///
/// # Errors
/// If there are too many.
pub fn places(resources: &Resources) -> Result<Vec<VirtioMmio>, BoardError> {
    let count =
        resources.drives.len() + usize::from(resources.vsock.is_some()) + usize::from(resources.entropy.is_some());
    (0..count).map(|index| layout::virtio_mmio(index).ok_or(BoardError::TooManyDevices(count))).collect()
}

/// A board, to which devices are added until the machine is started with its [buses](Self::buses).
pub struct Board<'a> {
    machine: &'a Machine,
    /// What the guest can reach.
    pub buses: Buses,
    /// Runs the devices.
    pub events: EventLoop,
    /// The host's side of the console.
    pub console: Arc<Mutex<Console>>,
    /// The keyboard.
    pub keyboard: Arc<I8042>,
    /// The guest's side of the console.
    pub serial: Arc<SerialPort>,
    /// The virtio devices, in the order of their [places].
    pub virtio: Vec<Arc<MmioTransport>>,
}

impl<'a> Board<'a> {
    /// A board with the devices that every guest has.
    ///
    /// # Errors
    /// If the process has no descriptor left, or the console's output can't be opened.
    pub fn new(machine: &'a Machine, resources: &Resources, descriptors: &Descriptors) -> Result<Self, BoardError> {
        let request = Arc::new(GuestRequest::new().map_err(BoardError::legacy("the guest's request"))?);
        let FixedDevices { ports, serial, keyboard } = FixedDevices::wire(machine, &request)?;
        let console = Arc::new(Mutex::new(console(serial.clone(), resources, descriptors)?));
        let mut board = Self {
            machine,
            buses: Buses { ports, mmio: Bus::new(), request },
            events: EventManager::new().map_err(BoardError::EventLoop)?,
            console: console.clone(),
            keyboard,
            serial,
            virtio: Vec::new(),
        };
        board.events.add_subscriber(Box::new(console));
        Ok(board)
    }

    /// Adds the boot timer, which counts from `start`.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn add_boot_timer(&mut self, start: Timestamp) -> Result<(), BoardError> {
        let timer = BootTimer::new(start).map_err(BoardError::legacy("the boot timer"))?;
        let timer = Arc::new(timer);
        self.buses.mmio.insert(boot_timer::BASE, boot_timer::LENGTH, timer.clone())?;
        self.events.add_subscriber(Box::new(timer));
        Ok(())
    }

    /// Adds a drive.
    ///
    /// # Errors
    /// If it can't be built, or wired.
    pub fn add_drive(&mut self, drive: &OpenDrive) -> Result<(), BoardError> {
        let id = || drive.config.drive_id.clone();
        let file = drive.file.try_clone().map_err(|source| BoardError::DriveFile { id: id(), source })?;
        let cache_type = match drive.config.cache_type {
            drive::CacheType::Unsafe => CacheType::Unsafe,
            drive::CacheType::Writeback => CacheType::Writeback,
        };
        let config = BlockConfig {
            file,
            access: block_access(&drive.config),
            cache_type,
            discard: if drive.config.discard == Some(false) { Discard::Refused } else { Discard::Offered },
            limiter: rate_limiter(drive.config.rate_limiter)?,
        };
        let block = Block::new(self.memory(), config).map_err(|source| BoardError::Block { id: id(), source })?;
        self.add_virtio(block)
    }

    /// Adds a vsock device.
    ///
    /// # Errors
    /// If it can't be built, or wired.
    pub fn add_vsock(&mut self, vsock: OpenVsock) -> Result<(), BoardError> {
        self.add_virtio(Vsock::new(self.memory(), vsock.config.guest_cid, vsock.endpoint)?)
    }

    /// Adds an entropy device.
    ///
    /// # Errors
    /// If it can't be built, or wired.
    pub fn add_entropy(&mut self, limiter: Option<api::RateLimiter>) -> Result<(), BoardError> {
        self.add_virtio(Entropy::new(self.memory(), rate_limiter(limiter)?)?)
    }

    /// Adds all virtio devices that `resources` name, in the order of their [places].
    ///
    /// # Errors
    /// If one can't be built, or wired. The vsock device is taken out of the resources.
    pub fn add_virtio_devices(&mut self, resources: &mut Resources) -> Result<(), BoardError> {
        for drive in &resources.drives {
            self.add_drive(drive)?;
        }
        if let Some(entropy) = resources.entropy {
            self.add_entropy(entropy.rate_limiter)?;
        }
        // Last, as it can't be had back.
        if let Some(vsock) = resources.vsock.take() {
            self.add_vsock(vsock)?;
        }
        Ok(())
    }

    fn memory(&self) -> Memory {
        self.machine.memory().clone()
    }

    fn add_virtio<D: VirtioDevice + 'static>(&mut self, device: D) -> Result<(), BoardError> {
        let place = layout::virtio_mmio(self.virtio.len())
            .ok_or(BoardError::TooManyDevices(self.virtio.len().saturating_add(1)))?;
        let device = Arc::new(Mutex::new(device));
        let transport = Arc::new(MmioTransport::new(device.clone()));
        self.machine.register_irqfd(transport.irqfd(), place.gsi)?;
        for (address, value, event) in transport.ioeventfds(place.address.into()) {
            self.machine.register_ioeventfd(event, address, value)?;
        }
        self.buses.mmio.insert(place.address.into(), MMIO_LENGTH, transport.clone())?;
        self.events.add_subscriber(Box::new(device));
        self.virtio.push(transport);
        Ok(())
    }
}

/// Standard input and output, unless `serial_out_path` or a descriptor named `console_input` says otherwise. A closed one is as good as `/dev/null`, and a terminal
/// is in raw mode while the guest runs.
fn console(port: Arc<SerialPort>, resources: &Resources, descriptors: &Descriptors) -> Result<Console, BoardError> {
    let duplicate = |descriptor: std::os::fd::BorrowedFd<'_>| descriptor.try_clone_to_owned().ok();
    let output = match &resources.serial.serial_out_path {
        Some(path) => Some(File::into(descriptors.open(path, Access::Append)?)),
        None => duplicate(io::stdout().as_fd()),
    };
    let input: Option<OwnedFd> = match (descriptors.duplicate(CONSOLE_INPUT)?, &resources.serial.serial_out_path) {
        (Some(input), _) => Some(input),
        (None, Some(_)) => None,
        (None, None) => duplicate(io::stdin().as_fd()),
    };
    let limiter = api::RateLimiter { bandwidth: resources.serial.rate_limiter, ops: None };
    let console = Console::new(port, output, input, rate_limiter(Some(limiter))?)?;
    // A sealed vmm has no terminal, and does not promise to change one.
    Ok(if descriptors.is_sealed() { console } else { console.in_raw_mode() })
}

fn rate_limiter(limits: Option<api::RateLimiter>) -> Result<Option<RateLimiter>, RateLimiterError> {
    let Some(limits) = limits else { return Ok(None) };
    let bucket = |bucket: api::TokenBucket| BucketConfig {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst.unwrap_or(0),
        refill_time_ms: bucket.refill_time,
    };
    RateLimiter::new(RateLimiterConfig { bandwidth: limits.bandwidth.map(bucket), ops: limits.ops.map(bucket) })
}
