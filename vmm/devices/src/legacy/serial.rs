//! The guest's side of serial port COM1, a 16550 from vm-superio.
//!
//! Output goes to a bounded ring that a [`Console`](super::Console) drains; a vCPU never waits for a reader. Syscalls on a
//! vCPU thread: `write` to eventfds, `futex`.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_superio::serial::{Error, SerialEvents};
use vm_superio::{Serial, SerialState, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::output_ring::{OutputRing, Pushed};
use crate::bus::BusDevice;
use crate::counters::counters;
use crate::lock;

/// First port of COM1.
pub const COM1_BASE: u16 = 0x3f8;
/// Number of ports.
pub const LENGTH: u64 = 8;
/// Interrupt line of COM1.
pub const COM1_IRQ: u32 = 4;

counters! {
    /// What went through the port.
    pub struct SerialCounters {
        /// Bytes that the guest sent.
        output_bytes,
        /// Bytes among them that were dropped, as the reader was too slow, or has gone.
        dropped_bytes,
        /// Bytes that the guest received.
        input_bytes,
        /// Accesses that are not one byte wide.
        faults,
    }
}

/// The registers of a port, and what the guest has not read yet; not what it has written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartState {
    /// DLL, DLM, IER, IIR, LCR, LSR, MCR, MSR, SCR.
    pub registers: [u8; 9],
    /// Input.
    pub input: Vec<u8>,
}

/// Input that no FIFO holds.
#[derive(Debug, thiserror::Error)]
#[error("the serial port's state has {0} bytes of input, which are more than it has room for")]
pub struct UartStateError(usize);

/// The port, for the port bus and for a console.
pub struct SerialPort {
    uart: Mutex<Serial<InterruptTrigger, UartEvents, Output>>,
    line: Arc<Line>,
    interrupt: Arc<EventFd>,
}

/// What the UART and the console share.
#[derive(Debug)]
pub(super) struct Line {
    ring: Mutex<OutputRing>,
    /// Wakes the console: there is output, or room for input.
    wake: EventFd,
    /// The console has input that didn't fit.
    input_waits: AtomicBool,
    /// Without a reader, output is discarded at once.
    is_connected: AtomicBool,
    counters: Arc<SerialCounters>,
}

impl SerialPort {
    /// A port to which no console is connected: output is discarded.
    ///
    /// # Errors
    /// If the process has no descriptor left for the eventfds.
    pub fn new() -> io::Result<Self> {
        let line = Arc::new(Line {
            ring: Mutex::new(OutputRing::new()),
            wake: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            input_waits: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            counters: Arc::default(),
        });
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let uart =
            Serial::with_events(InterruptTrigger(interrupt.clone()), UartEvents(line.clone()), Output(line.clone()));
        Ok(Self { uart: Mutex::new(uart), line, interrupt })
    }

    /// Its state.
    pub fn save(&self) -> UartState {
        let mut state = lock(&self.uart).state();
        let registers = registers(&mut state).map(|register| *register);
        UartState { registers, input: state.in_buffer }
    }

    /// Takes a state over.
    ///
    /// # Errors
    /// If it has too much input.
    pub fn restore(&self, saved: &UartState) -> Result<(), UartStateError> {
        let mut state = SerialState { in_buffer: saved.input.clone(), ..SerialState::default() };
        for (register, value) in registers(&mut state).into_iter().zip(saved.registers) {
            *register = value;
        }
        let trigger = InterruptTrigger(self.interrupt.clone());
        let uart = Serial::from_state(&state, trigger, UartEvents(self.line.clone()), Output(self.line.clone()));
        // Its trigger never fails, so it is the input.
        *lock(&self.uart) = uart.map_err(|_| UartStateError(saved.input.len()))?;
        Ok(())
    }

    /// What to register as irqfd of line [`COM1_IRQ`].
    pub fn irqfd(&self) -> &EventFd {
        &self.interrupt
    }

    /// What went through the port.
    pub fn counters(&self) -> &Arc<SerialCounters> {
        &self.line.counters
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Room for input, in bytes.
    pub(super) fn input_room(&self) -> usize {
        lock(&self.uart).fifo_capacity()
    }

    /// Hands input to the guest; the caller knows that there is room. What arrives in loopback mode is lost, as on a wire.
    pub(super) fn receive(&self, input: &[u8]) {
        let received = lock(&self.uart).enqueue_raw_bytes(input).unwrap_or(0);
        self.line.counters.input_bytes.add(u64::try_from(received).unwrap_or(0));
    }
}

/// A port's registers, in the order of [`UartState::registers`].
fn registers(state: &mut SerialState) -> [&mut u8; 9] {
    [
        &mut state.baud_divisor_low,
        &mut state.baud_divisor_high,
        &mut state.interrupt_enable,
        &mut state.interrupt_identification,
        &mut state.line_control,
        &mut state.line_status,
        &mut state.modem_control,
        &mut state.modem_status,
        &mut state.scratch,
    ]
}

impl Line {
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Has the event loop look at the console again.
    pub(super) fn wake_console(&self) {
        // A full counter is readable, which is all that is wanted.
        let _ = self.wake.write(1);
    }

    pub(super) fn counters(&self) -> &SerialCounters {
        &self.counters
    }

    /// Asks to be woken when the guest has read its input.
    pub(super) fn wake_on_input_room(&self) {
        self.input_waits.store(true, Ordering::SeqCst);
    }

    pub(super) fn connect(&self) {
        self.is_connected.store(true, Ordering::Release);
    }

    /// From now on output is dropped. Returns how much was waiting.
    pub(super) fn disconnect(&self) -> usize {
        self.is_connected.store(false, Ordering::Release);
        let mut ring = lock(&self.ring);
        let waiting = ring.len();
        *ring = OutputRing::new();
        waiting
    }

    pub(super) fn pop_output(&self, chunk: &mut Vec<u8>, limit: usize) {
        lock(&self.ring).pop(chunk, limit);
    }

    pub(super) fn waiting_output(&self) -> usize {
        lock(&self.ring).len()
    }

    fn push_output(&self, byte: u8) {
        if !self.is_connected.load(Ordering::Acquire) {
            self.counters.dropped_bytes.count();
            return;
        }
        let pushed = lock(&self.ring).push(byte);
        match pushed {
            Pushed::Queued => {}
            Pushed::WakeDrain => self.wake_console(),
            Pushed::Dropped => self.counters.dropped_bytes.count(),
        }
    }
}

/// The UART's writer.
struct Output(Arc<Line>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|&byte| self.0.push_output(byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART's interrupt line.
struct InterruptTrigger(Arc<EventFd>);

impl Trigger for InterruptTrigger {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        // The counter can only be full if nobody reads it, that is, if there's no KVM behind it.
        let _ = self.0.write(1);
        Ok(())
    }
}

struct UartEvents(Arc<Line>);

impl SerialEvents for UartEvents {
    fn buffer_read(&self) {}

    fn out_byte(&self) {
        self.0.counters.output_bytes.count();
    }

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if self.0.input_waits.swap(false, Ordering::SeqCst) {
            self.0.wake_console();
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (u8::try_from(offset), data) {
            (Ok(offset), [value]) => *value = lock(&self.uart).read(offset),
            (_, data) => {
                data.fill(0xff);
                self.line.counters.faults.count();
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (u8::try_from(offset), data) {
            // Neither the trigger nor the writer can fail; a full FIFO in loopback mode loses the byte, as it does on a chip.
            (Ok(offset), &[value]) => match lock(&self.uart).write(offset, value) {
                Ok(()) | Err(Error::Trigger(_) | Error::IOError(_) | Error::FullFifo) => {}
            },
            _ => self.line.counters.faults.count(),
        }
    }
}

impl std::fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialPort").field("line", &self.line).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE_STATUS: u64 = 5;

    #[test]
    fn output_without_a_console_is_dropped_and_never_blocks() {
        let port = SerialPort::new().unwrap();
        (0..3).for_each(|_| port.write(0, b"x"));
        assert_eq!((port.counters().output_bytes.get(), port.counters().dropped_bytes.get()), (3, 3));
    }

    #[test]
    fn output_beyond_the_ring_is_dropped_and_counted() {
        let port = SerialPort::new().unwrap();
        port.line().connect();
        (0..super::super::output_ring::CAPACITY + 10).for_each(|_| port.write(0, b"x"));
        assert_eq!(port.counters().dropped_bytes.get(), 10);
        assert_eq!(port.line().wake().read().unwrap(), 1);
        let mut status = [0];
        port.read(LINE_STATUS, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "the transmitter is always ready");
    }

    #[test]
    fn reading_the_last_input_wakes_a_waiting_console() {
        let port = SerialPort::new().unwrap();
        port.write(1, &[1]);
        port.receive(b"ab");
        assert_eq!(port.irqfd().read().unwrap(), 1);
        port.line().wake_on_input_room();
        let mut byte = [0];
        port.read(0, &mut byte);
        assert!(port.line().wake().read().is_err());
        port.read(0, &mut byte);
        assert_eq!(byte, *b"b");
        assert_eq!(port.line().wake().read().unwrap(), 1);
    }

    #[test]
    fn wide_accesses_are_counted() {
        let port = SerialPort::new().unwrap();
        let mut data = [0; 2];
        port.read(0, &mut data);
        port.write(0, &data);
        assert_eq!((data, port.counters().faults.get()), ([0xff; 2], 2));
    }
}
