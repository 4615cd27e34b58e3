//! The i8042 keyboard controller at ports 0x60 and 0x64: resets the machine, and types Ctrl+Alt+Del.
//!
//! Behind it is a keyboard without a mind of its own, which acknowledges whatever it's told. There is no mouse port.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use stockade_vmm_api::exit::ExitReason;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::counters::counters;
use crate::guest_request::GuestRequest;
use crate::lock;

/// First port.
pub const BASE: u16 = 0x60;
/// Number of ports from [`BASE`].
pub const LENGTH: u64 = 5;

const DATA: u64 = 0;
const STATUS_COMMAND: u64 = 4;

const READ_CONTROL: u8 = 0x20;
const WRITE_CONTROL: u8 = 0x60;
const SELF_TEST: u8 = 0xaa;
const TEST_KEYBOARD: u8 = 0xab;
const DISABLE_KEYBOARD: u8 = 0xad;
const ENABLE_KEYBOARD: u8 = 0xae;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const FIRST_PULSE: u8 = 0xf0;
const SELF_TEST_PASSED: u8 = 0x55;
const TEST_PASSED: u8 = 0;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND_LAST: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;

const CONTROL_INTERRUPT: u8 = 1 << 0;
const CONTROL_SYSTEM: u8 = 1 << 2;
const CONTROL_KEYBOARD_OFF: u8 = 1 << 4;

/// Bit 0 of the output port, and of a pulse command: the processor's reset line, active low.
const RESET_LINE: u8 = 1 << 0;
const OUTPUT_PORT: u8 = 0b11;

const KEYBOARD_ACK: u8 = 0xfa;
const KEYBOARD_RESET: u8 = 0xff;
const KEYBOARD_IDENTIFY: u8 = 0xf2;
const KEYBOARD_TEST_PASSED: u8 = 0xaa;
const KEYBOARD_ID: [u8; 2] = [0xab, 0x83];

/// Scan code set 2: control, alt and delete go down, and up again.
const CTRL_ALT_DEL: [u8; 11] = [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14];
const BUFFER_SIZE: usize = 16;

counters! {
    /// What the guest did with the controller.
    pub struct I8042Counters {
        /// Resets that the guest asked for.
        resets,
        /// Accesses that are no byte at one of the two ports, or unknown commands.
        faults,
    }
}

/// Why keys can't be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum I8042Error {
    /// The guest reads no keys.
    #[error("type ctrl+alt+del: the guest has not read the keys typed before")]
    BufferFull,
    /// The guest turned the keyboard or its interrupt off.
    #[error("type ctrl+alt+del: the guest has no driver for the keyboard (a kernel needs CONFIG_SERIO_I8042)")]
    KeyboardOff,
}

/// What a controller was told, to be saved and restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Control register.
    pub control: u8,
    /// Output port.
    pub output_port: u8,
    /// The command that waits for its data.
    pub pending_command: Option<u8>,
    /// What the guest has not read yet.
    pub buffer: Vec<u8>,
}

/// The controller.
#[derive(Debug)]
pub struct I8042 {
    state: Mutex<State>,
    request: Arc<GuestRequest>,
    interrupt: EventFd,
    counters: Arc<I8042Counters>,
}

#[derive(Debug)]
struct State {
    control: u8,
    output_port: u8,
    pending_command: Option<u8>,
    buffer: VecDeque<u8>,
}

impl I8042 {
    /// A controller that reports a reset to `request`.
    ///
    /// # Errors
    /// If the process has no descriptor left for the interrupt's eventfd.
    pub fn new(request: Arc<GuestRequest>) -> io::Result<Self> {
        let state = State {
            control: CONTROL_SYSTEM | CONTROL_INTERRUPT,
            output_port: OUTPUT_PORT,
            pending_command: None,
            buffer: VecDeque::with_capacity(BUFFER_SIZE),
        };
        let interrupt = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { state: Mutex::new(state), request, interrupt, counters: Arc::default() })
    }

    /// What to register as irqfd of line 1.
    pub fn irqfd(&self) -> &EventFd {
        &self.interrupt
    }

    /// What the guest did with the controller.
    pub fn counters(&self) -> &Arc<I8042Counters> {
        &self.counters
    }

    /// Types Ctrl+Alt+Del.
    ///
    /// # Errors
    /// If the guest doesn't listen, or has not read what was typed before.
    pub fn type_ctrl_alt_del(&self) -> Result<(), I8042Error> {
        let mut state = lock(&self.state);
        if state.control & CONTROL_KEYBOARD_OFF != 0 || state.control & CONTROL_INTERRUPT == 0 {
            return Err(I8042Error::KeyboardOff);
        }
        if state.buffer.len().saturating_add(CTRL_ALT_DEL.len()) > BUFFER_SIZE {
            return Err(I8042Error::BufferFull);
        }
        state.buffer.extend(CTRL_ALT_DEL);
        self.interrupt_if_full(&state);
        Ok(())
    }

    /// Its state.
    pub fn save(&self) -> I8042State {
        let state = lock(&self.state);
        I8042State {
            control: state.control,
            output_port: state.output_port,
            pending_command: state.pending_command,
            buffer: state.buffer.iter().copied().collect(),
        }
    }

    /// Takes a state over. More keys than there is room for are none.
    pub fn restore(&self, saved: &I8042State) {
        let mut state = lock(&self.state);
        state.control = saved.control;
        state.output_port = saved.output_port;
        state.pending_command =
            saved.pending_command.filter(|&command| [WRITE_CONTROL, WRITE_OUTPUT_PORT].contains(&command));
        state.buffer.clear();
        state.buffer.extend(saved.buffer.iter().take(BUFFER_SIZE));
        self.interrupt_if_full(&state);
    }

    fn interrupt_if_full(&self, state: &State) {
        if !state.buffer.is_empty() && state.control & CONTROL_INTERRUPT != 0 {
            // The counter can only be full if nobody reads it, that is, if there's no KVM behind it.
            let _ = self.interrupt.write(1);
        }
    }

    fn reset_machine(&self) {
        self.counters.resets.count();
        self.request.end(ExitReason::Reset);
    }

    fn command(&self, state: &mut State, command: u8) {
        state.pending_command = None;
        match command {
            READ_CONTROL => state.answer(&[state.control]),
            READ_OUTPUT_PORT => state.answer(&[state.output_port]),
            SELF_TEST => state.answer(&[SELF_TEST_PASSED]),
            TEST_KEYBOARD => state.answer(&[TEST_PASSED]),
            DISABLE_KEYBOARD => state.control |= CONTROL_KEYBOARD_OFF,
            ENABLE_KEYBOARD => state.control &= !CONTROL_KEYBOARD_OFF,
            WRITE_CONTROL | WRITE_OUTPUT_PORT => state.pending_command = Some(command),
            FIRST_PULSE.. if command & RESET_LINE == 0 => self.reset_machine(),
            FIRST_PULSE.. => {}
            _ => self.counters.faults.count(),
        }
    }

    fn data(&self, state: &mut State, value: u8) {
        match state.pending_command.take() {
            Some(WRITE_CONTROL) => state.control = value,
            Some(_) => {
                state.output_port = value;
                if value & RESET_LINE == 0 {
                    self.reset_machine();
                }
            }
            None => {
                state.answer(&[KEYBOARD_ACK]);
                match value {
                    KEYBOARD_RESET => state.buffer.push_back(KEYBOARD_TEST_PASSED),
                    KEYBOARD_IDENTIFY => state.buffer.extend(KEYBOARD_ID),
                    _ => {}
                }
                self.interrupt_if_full(state);
            }
        }
    }
}

impl State {
    fn status(&self) -> u8 {
        let output_full = if self.buffer.is_empty() { 0 } else { STATUS_OUTPUT_FULL };
        let command_last = if self.pending_command.is_some() { STATUS_COMMAND_LAST } else { 0 };
        STATUS_SYSTEM | STATUS_UNLOCKED | output_full | command_last
    }

    /// Makes `bytes` all that can be read.
    fn answer(&mut self, bytes: &[u8]) {
        self.buffer.clear();
        self.buffer.extend(bytes);
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut state = lock(&self.state);
        match (offset, data) {
            (STATUS_COMMAND, [value]) => *value = state.status(),
            (DATA, [value]) => {
                *value = state.buffer.pop_front().unwrap_or(0);
                self.interrupt_if_full(&state);
            }
            _ => self.counters.faults.count(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        match (offset, data) {
            (STATUS_COMMAND, &[value]) => self.command(&mut state, value),
            (DATA, &[value]) => self.data(&mut state, value),
            _ => self.counters.faults.count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn controller() -> I8042 {
        I8042::new(Arc::new(GuestRequest::new().unwrap())).unwrap()
    }

    fn read(device: &I8042, offset: u64) -> u8 {
        let mut data = [0xee];
        device.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn the_reset_line_resets() {
        for command in 0xf0..=0xff_u8 {
            let device = controller();
            device.write(STATUS_COMMAND, &[command]);
            assert_eq!(device.request.reason().is_some(), command % 2 == 0, "{command:#x}");
        }
        let device = controller();
        device.write(STATUS_COMMAND, &[WRITE_OUTPUT_PORT]);
        device.write(DATA, &[0x02]);
        assert_eq!(device.request.reason(), Some(ExitReason::Reset));
    }

    #[test]
    fn linux_probe_sequence() {
        let device = controller();
        assert_eq!(read(&device, STATUS_COMMAND) & STATUS_OUTPUT_FULL, 0);
        device.write(STATUS_COMMAND, &[READ_CONTROL]);
        assert_eq!(read(&device, STATUS_COMMAND) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        assert_eq!(read(&device, DATA), CONTROL_SYSTEM | CONTROL_INTERRUPT);
        device.write(STATUS_COMMAND, &[WRITE_CONTROL]);
        device.write(DATA, &[0x74]);
        device.write(STATUS_COMMAND, &[READ_CONTROL]);
        assert_eq!(read(&device, DATA), 0x74);
        device.write(STATUS_COMMAND, &[SELF_TEST]);
        assert_eq!(read(&device, DATA), SELF_TEST_PASSED);
        device.write(DATA, &[KEYBOARD_IDENTIFY]);
        assert_eq!([read(&device, DATA), read(&device, DATA), read(&device, DATA)], [0xfa, 0xab, 0x83]);
        assert_eq!(read(&device, DATA), 0);
        assert_eq!(device.counters.faults.get(), 0);
    }

    #[test]
    fn ctrl_alt_del_interrupts_once_a_byte_and_needs_a_listening_guest() {
        let device = controller();
        device.type_ctrl_alt_del().unwrap();
        assert_eq!(device.type_ctrl_alt_del(), Err(I8042Error::BufferFull));
        for expected in CTRL_ALT_DEL {
            assert_eq!(device.irqfd().read().unwrap(), 1);
            assert_eq!(read(&device, DATA), expected);
        }
        assert!(device.irqfd().read().is_err());
        device.write(STATUS_COMMAND, &[DISABLE_KEYBOARD]);
        assert_eq!(device.type_ctrl_alt_del(), Err(I8042Error::KeyboardOff));
    }

    proptest! {
        #[test]
        fn the_buffer_stays_bounded(writes in prop::collection::vec((0u64..5, prop::collection::vec(any::<u8>(), 0..3)), 0..200)) {
            let device = controller();
            for (offset, data) in writes {
                device.write(offset, &data);
                prop_assert!(lock(&device.state).buffer.len() <= BUFFER_SIZE);
            }
        }
    }
}
