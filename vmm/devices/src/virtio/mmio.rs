//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
//!
//! ```text
//! status: 0 -> ACKNOWLEDGE -> +DRIVER -> +FEATURES_OK -> +DRIVER_OK        writing 0 resets from anywhere
//!                  features may be set --^              ^-- queues may be set up: only here
//! ```
//! A status bit can't be taken back except by reset; FEATURES_OK is refused (it reads back as 0) if the driver took a
//! feature that wasn't offered or left out VERSION_1. Everything that a driver must not do is counted and ignored.
//! Only at DRIVER_OK, with a queue outside of memory, is the device lost: it shows DEVICE_NEEDS_RESET.
//!
//! Syscalls on a vCPU thread: `write` to eventfds (DRIVER_OK and notifications that the kernel didn't catch), `read` of
//! eventfds (reset), `futex` if the device is at work.

use std::sync::{Arc, Mutex};

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_mmio as register;
use vmm_sys_util::eventfd::EventFd;

use super::core::QueueLayout;
use super::state::{DeviceState, DeviceStateError, QueueState};
use super::{FaultCounters, GuestFault, Interrupt, VirtioDevice};
use crate::bus::BusDevice;
use crate::lock;

/// Bytes of address space that a device takes.
pub const MMIO_LENGTH: u64 = 0x1000;
/// Offset of QueueNotify, to register as ioeventfd with the queue's index as 4-byte datamatch.
pub const NOTIFY_OFFSET: u64 = register::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = 0;
const CONFIG_OFFSET: u64 = register::VIRTIO_MMIO_CONFIG as u64;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// One device's registers, to be put on the MMIO bus.
pub struct MmioTransport {
    device: Arc<Mutex<dyn VirtioDevice>>,
    device_type: u32,
    features: u64,
    queue_sizes: Vec<u16>,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
    faults: Arc<FaultCounters>,
    registers: Mutex<Registers>,
}

/// What the driver wrote.
struct Registers {
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueLayout>,
}

impl MmioTransport {
    /// The transport of `device`, which is idle.
    pub fn new(device: Arc<Mutex<dyn VirtioDevice>>) -> Self {
        let locked = lock(&device);
        let core = locked.core();
        let queue_sizes: Vec<u16> = core.queues().iter().map(virtio_queue::QueueT::max_size).collect();
        let mut registers = Registers {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: vec![QueueLayout::default(); queue_sizes.len()],
        };
        registers.clear(&queue_sizes);
        Self {
            device_type: locked.device_type(),
            features: locked.features() | VERSION_1,
            queue_sizes,
            kicks: core.kicks().clone(),
            interrupt: core.interrupt().clone(),
            faults: core.faults().clone(),
            registers: Mutex::new(registers),
            device: {
                drop(locked);
                device
            },
        }
    }

    /// What to register as ioeventfds for a device at guest address `base`: address, 4-byte datamatch, eventfd.
    pub fn ioeventfds(&self, base: u64) -> impl Iterator<Item = (u64, u32, &EventFd)> {
        let address = base.saturating_add(NOTIFY_OFFSET);
        self.kicks.iter().zip(0_u32..).map(move |(kick, index)| (address, index, kick))
    }

    /// What to register as irqfd for the device's line.
    pub fn irqfd(&self) -> &EventFd {
        self.interrupt.event()
    }

    /// The device behind the transport.
    pub fn device(&self) -> &Arc<Mutex<dyn VirtioDevice>> {
        &self.device
    }

    /// What the driver has set up. No vCPU runs, and the device does not work meanwhile.
    pub fn save(&self) -> DeviceState {
        let registers = lock(&self.registers);
        let device = lock(&self.device);
        let queues =
            registers.queues.iter().zip(device.core().positions()).map(|(queue, (next_available, next_used))| {
                let QueueLayout { size, ready, descriptors, available, used } = *queue;
                QueueState { size, ready, descriptors, available, used, next_available, next_used }
            });
        DeviceState {
            device_type: self.device_type,
            status: registers.status,
            needs_reset: self.interrupt.needs_reset(),
            device_features_select: registers.device_features_select,
            driver_features_select: registers.driver_features_select,
            driver_features: registers.driver_features,
            queue_select: registers.queue_select,
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.config_generation(),
            queues: queues.collect(),
        }
    }

    /// Brings a new device to where `state` says that a driver had brought one: through the registers, in the driver's order.
    ///
    /// # Errors
    /// If no driver could have, or the state is one of another device. The device is of no use then.
    pub fn restore(&self, state: &DeviceState) -> Result<(), DeviceStateError> {
        let (found, expected) = (state.device_type, self.device_type);
        if found != expected {
            return Err(DeviceStateError::DeviceType { found, expected });
        }
        let (found, expected) = (state.queues.len(), self.queue_sizes.len());
        if found != expected {
            return Err(DeviceStateError::QueueCount { found, expected });
        }
        let mut registers = lock(&self.registers);
        self.replay(&mut registers, state)?;
        registers.device_features_select = state.device_features_select;
        registers.driver_features_select = state.driver_features_select;
        registers.queue_select = state.queue_select;
        if registers.status & DRIVER_OK != 0 && !state.needs_reset {
            let mut device = lock(&self.device);
            device.core_mut().activate(registers.driver_features, &registers.queues)?;
            device.core_mut().set_positions(state.queues.iter().map(|queue| (queue.next_available, queue.next_used)));
            device.restored();
        }
        self.interrupt.restore(state.interrupt_status, state.config_generation, state.needs_reset);
        Ok(())
    }

    /// All writes but the one that starts the device.
    fn replay(&self, registers: &mut Registers, state: &DeviceState) -> Result<(), GuestFault> {
        let known = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED;
        let follows = |bit: u32, on: u32| state.status & bit == 0 || state.status & on == on;
        let legal = state.status & !known == 0
            && follows(DRIVER, ACKNOWLEDGE)
            && follows(FEATURES_OK, DRIVER)
            && follows(DRIVER_OK, FEATURES_OK)
            && (!state.needs_reset || state.status & DRIVER_OK != 0);
        if !legal {
            return Err(GuestFault::Status);
        }
        let negotiated = state.status & FEATURES_OK != 0;
        if negotiated && !self.accepts(state.driver_features) {
            return Err(GuestFault::Features);
        }
        registers.driver_features = state.driver_features;
        for (queue, (layout, &max_size)) in state.queues.iter().zip(registers.queues.iter_mut().zip(&self.queue_sizes))
        {
            let is_new = *layout == QueueLayout { size: queue.size, ..QueueLayout::default() };
            let QueueState { size, ready, descriptors, available, used, .. } = *queue;
            let restored = QueueLayout { size, ready, descriptors, available, used };
            let is_touched = !is_new || restored != *layout;
            if is_touched && !negotiated {
                return Err(GuestFault::QueueRegister);
            }
            set_queue_field(layout, max_size, register::VIRTIO_MMIO_QUEUE_NUM, size.into())?;
            *layout = restored;
        }
        registers.status = state.status;
        Ok(())
    }

    fn read_register(&self, offset: u64) -> Result<u32, GuestFault> {
        let offset = u32::try_from(offset).map_err(|_| GuestFault::Register)?;
        let registers = lock(&self.registers);
        Ok(match offset {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_DEVICE_ID => self.device_type,
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            register::VIRTIO_MMIO_DEVICE_FEATURES => word(self.features, registers.device_features_select),
            register::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                self.queue_sizes.get(registers.queue_index()).copied().map_or(0, u32::from)
            }
            register::VIRTIO_MMIO_QUEUE_READY => {
                registers.queues.get(registers.queue_index()).map_or(0, |queue| u32::from(queue.ready))
            }
            register::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            register::VIRTIO_MMIO_STATUS => self.status(&registers),
            register::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.config_generation(),
            // There's no shared memory region, which reads as a length (and a base) of -1 (4.2.2).
            register::VIRTIO_MMIO_SHM_LEN_LOW..=register::VIRTIO_MMIO_SHM_BASE_HIGH if offset % 4 == 0 => u32::MAX,
            _ => return Err(GuestFault::Register),
        })
    }

    fn write_register(&self, offset: u64, value: u32) -> Result<(), GuestFault> {
        let offset = u32::try_from(offset).map_err(|_| GuestFault::Register)?;
        let mut registers = lock(&self.registers);
        match offset {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => registers.set_driver_features(value)?,
            register::VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            register::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(&registers, value)?,
            register::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::VIRTIO_MMIO_STATUS => self.set_status(&mut registers, value)?,
            register::VIRTIO_MMIO_SHM_SEL => {}
            register::VIRTIO_MMIO_QUEUE_READY => registers.set_queue_ready(value)?,
            _ => {
                let max_size = self.queue_sizes.get(registers.queue_index()).copied().unwrap_or(0);
                set_queue_field(registers.queue_in_setup()?, max_size, offset, value)?;
            }
        }
        Ok(())
    }

    fn status(&self, registers: &Registers) -> u32 {
        registers.status | if self.interrupt.needs_reset() { NEEDS_RESET } else { 0 }
    }

    fn set_status(&self, registers: &mut Registers, value: u32) -> Result<(), GuestFault> {
        if value == 0 {
            registers.clear(&self.queue_sizes);
            let mut device = lock(&self.device);
            device.core_mut().reset();
            device.reset();
            return Ok(());
        }
        let (value, old) = (value & !NEEDS_RESET, registers.status);
        if value & FAILED != 0 {
            registers.status |= FAILED;
            return Ok(());
        }
        let added = value & !old;
        let follows = |bit: u32, on: u32| added & bit == 0 || old & on == on;
        let known = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        let legal = old & !value == 0
            && value & !known == 0
            && (added & DRIVER == 0 || value & ACKNOWLEDGE != 0)
            && follows(FEATURES_OK, DRIVER)
            && follows(DRIVER_OK, FEATURES_OK);
        if !legal {
            return Err(GuestFault::Status);
        }
        if added & FEATURES_OK != 0 && !self.accepts(registers.driver_features) {
            registers.status = value & !FEATURES_OK;
            return Err(GuestFault::Features);
        }
        registers.status = value;
        if added & DRIVER_OK != 0 {
            self.activate(registers);
        }
        Ok(())
    }

    fn accepts(&self, driver_features: u64) -> bool {
        driver_features & !self.features == 0 && driver_features & VERSION_1 != 0
    }

    fn activate(&self, registers: &Registers) {
        let mut device = lock(&self.device);
        match device.core_mut().activate(registers.driver_features, &registers.queues) {
            Ok(()) => device.activated(),
            Err(fault) => device.core_mut().fail(fault),
        }
    }

    fn notify(&self, registers: &Registers, queue: u32) -> Result<(), GuestFault> {
        let index = usize::try_from(queue).map_err(|_| GuestFault::Notify)?;
        let ready = registers.queues.get(index).is_some_and(|queue| queue.ready);
        let kick = self.kicks.get(index).filter(|_| ready && registers.status & DRIVER_OK != 0);
        // A full counter is readable, which is all that is wanted.
        kick.map(|kick| drop(kick.write(1))).ok_or(GuestFault::Notify)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) -> Result<(), GuestFault> {
        let device = lock(&self.device);
        let config = device.config();
        let start = usize::try_from(offset).map_err(|_| GuestFault::ConfigRead)?;
        let end = start.checked_add(data.len()).ok_or(GuestFault::ConfigRead)?;
        data.copy_from_slice(config.get(start..end).ok_or(GuestFault::ConfigRead)?);
        Ok(())
    }
}

impl Registers {
    /// As after power-on.
    fn clear(&mut self, queue_sizes: &[u16]) {
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for (queue, &size) in self.queues.iter_mut().zip(queue_sizes) {
            *queue = QueueLayout { size, ..QueueLayout::default() };
        }
    }

    fn queue_index(&self) -> usize {
        usize::try_from(self.queue_select).unwrap_or(usize::MAX)
    }

    fn set_driver_features(&mut self, value: u32) -> Result<(), GuestFault> {
        if self.status & (DRIVER | FEATURES_OK | FAILED) != DRIVER {
            return Err(GuestFault::Features);
        }
        let value = u64::from(value);
        self.driver_features = match self.driver_features_select {
            0 => self.driver_features & !u64::from(u32::MAX) | value,
            1 => self.driver_features & u64::from(u32::MAX) | value << 32,
            _ if value == 0 => self.driver_features,
            _ => return Err(GuestFault::Features),
        };
        Ok(())
    }

    fn set_queue_ready(&mut self, value: u32) -> Result<(), GuestFault> {
        let ready = match value {
            0 => false,
            1 => true,
            _ => return Err(GuestFault::QueueRegister),
        };
        let in_setup = self.is_in_setup();
        let index = self.queue_index();
        let queue = self.queues.get_mut(index).ok_or(GuestFault::QueueRegister)?;
        // Linux disables a queue that a reset has disabled already: no change, no fault.
        if queue.ready != ready && !in_setup {
            return Err(GuestFault::QueueRegister);
        }
        queue.ready = ready;
        Ok(())
    }

    fn is_in_setup(&self) -> bool {
        self.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK
    }

    fn queue_in_setup(&mut self) -> Result<&mut QueueLayout, GuestFault> {
        let index = self.queue_index();
        let in_setup = self.is_in_setup();
        self.queues.get_mut(index).filter(|queue| in_setup && !queue.ready).ok_or(GuestFault::QueueRegister)
    }
}

fn set_queue_field(queue: &mut QueueLayout, max_size: u16, offset: u32, value: u32) -> Result<(), GuestFault> {
    match offset {
        register::VIRTIO_MMIO_QUEUE_NUM => {
            let size = u16::try_from(value).ok().filter(|size| size.is_power_of_two() && *size <= max_size);
            queue.size = size.ok_or(GuestFault::QueueRegister)?;
        }
        register::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
        register::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
        register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available, value),
        register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available, value),
        register::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
        register::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
        _ => return Err(GuestFault::Register),
    }
    Ok(())
}

fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(field: &mut u64, value: u32) {
    *field = *field & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(field: &mut u64, value: u32) {
    *field = *field & u64::from(u32::MAX) | u64::from(value) << 32;
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let result = match offset.checked_sub(CONFIG_OFFSET) {
            Some(offset) => self.read_config(offset, data),
            None => match <&mut [u8; 4]>::try_from(data) {
                Ok(data) => self.read_register(offset).map(|value| *data = value.to_le_bytes()),
                Err(_) => Err(GuestFault::Register),
            },
        };
        result.unwrap_or_else(|fault| self.faults.record(fault));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let result = match (offset.checked_sub(CONFIG_OFFSET), <[u8; 4]>::try_from(data)) {
            (Some(offset), _) => lock(&self.device).write_config(offset, data),
            (None, Ok(value)) => self.write_register(offset, u32::from_le_bytes(value)),
            (None, Err(_)) => Err(GuestFault::Register),
        };
        result.unwrap_or_else(|fault| self.faults.record(fault));
    }
}
