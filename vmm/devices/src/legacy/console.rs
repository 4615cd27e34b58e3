//! The host's side of a serial port: drains its output to a descriptor, and feeds it input from another. Runs on the event
//! loop.
//!
//! Both descriptors are made non-blocking for as long as the console lives (the flag is shared with whoever else has the
//! same open file). A regular file can't be polled: it's written at once and read when the guest has room.
//!
//! Syscalls: `read`, `write`, `epoll_ctl`, those of the [rate limiter](crate::rate_limiter), `fcntl` at start and end.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::serial::SerialPort;
use super::terminal::RawTerminal;
use crate::rate_limiter::RateLimiter;
use crate::sys;

/// Bytes in one write.
const CHUNK: usize = 4096;
/// Reads or writes in one turn of the event loop.
const TURN: usize = 16;

/// Why a console can't be built.
#[derive(Debug, thiserror::Error)]
#[error("make console descriptor non-blocking: {0}")]
pub struct ConsoleError(#[source] io::Error);

/// The console of one serial port.
pub struct Console {
    port: Arc<SerialPort>,
    output: Option<Stream>,
    input: Option<Stream>,
    /// Restored when the console goes.
    _terminal: Option<RawTerminal>,
    limiter: Option<RateLimiter>,
    /// Bytes taken from the ring, of which the first `sent` are written.
    chunk: Vec<u8>,
    sent: usize,
}

/// A descriptor and what the event loop knows of it.
struct Stream {
    file: File,
    original_flags: libc::c_int,
    is_polled: bool,
}

impl Stream {
    fn new(descriptor: OwnedFd) -> Result<Self, ConsoleError> {
        let flags = sys::status_flags(descriptor.as_fd()).map_err(ConsoleError)?;
        if flags & libc::O_NONBLOCK == 0 {
            sys::set_status_flags(descriptor.as_fd(), flags | libc::O_NONBLOCK).map_err(ConsoleError)?;
        }
        Ok(Self { file: descriptor.into(), original_flags: flags, is_polled: false })
    }

    /// Polls for `events`. A regular file can't be: it never makes one wait.
    fn poll(&mut self, ops: &mut EventOps, events: EventSet) -> bool {
        if !self.is_polled {
            self.is_polled = ops.add(Events::new(&self.file, events)).is_ok();
        }
        self.is_polled
    }

    fn unpoll(&mut self, ops: &mut EventOps) {
        if std::mem::take(&mut self.is_polled)
            && let Err(error) = ops.remove(Events::empty(&self.file))
        {
            log::error!("stop polling console: {error}");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.original_flags & libc::O_NONBLOCK == 0 {
            // Whoever shares the open file finds it as it was; if that fails there's nobody to tell.
            let _ = sys::set_status_flags(self.file.as_fd(), self.original_flags);
        }
    }
}

impl Console {
    /// Connects descriptors to `port`: where its output goes and where its input comes from, if anywhere. `limiter` limits
    /// the bytes of output; what is over the limit waits in the port's ring, and is dropped when that is full.
    ///
    /// # Errors
    /// If a descriptor can't be made non-blocking.
    pub fn new(
        port: Arc<SerialPort>,
        output: Option<OwnedFd>,
        input: Option<OwnedFd>,
        limiter: Option<RateLimiter>,
    ) -> Result<Self, ConsoleError> {
        let output = output.map(Stream::new).transpose()?;
        let input = input.map(Stream::new).transpose()?;
        if output.is_some() {
            port.line().connect();
        }
        Ok(Self { port, output, input, _terminal: None, limiter, chunk: Vec::with_capacity(CHUNK), sent: 0 })
    }

    /// Puts the terminal that input comes from, if it is one, into raw mode for as long as the console lives.
    #[must_use]
    pub fn in_raw_mode(mut self) -> Self {
        self._terminal = self.input.as_ref().and_then(|input| RawTerminal::enter(&input.file));
        self
    }

    /// Output that the reader has not taken yet, in bytes. The event loop goes on with it by itself.
    pub fn pending(&self) -> usize {
        self.port.line().waiting_output().saturating_add(self.unsent())
    }

    /// Writes as much pending output as the reader takes at once, whatever the rate limit. For the guest's end; returns
    /// what is left.
    pub fn flush(&mut self) -> usize {
        while self.refill_unlimited() && matches!(self.send(), Sent::All) {}
        self.pending()
    }

    fn unsent(&self) -> usize {
        self.chunk.len().saturating_sub(self.sent)
    }

    /// Whether there is something to send in `chunk`.
    fn refill_unlimited(&mut self) -> bool {
        if self.unsent() == 0 {
            self.refill(CHUNK);
        }
        self.unsent() > 0
    }

    fn refill(&mut self, limit: usize) {
        self.chunk.clear();
        self.sent = 0;
        self.port.line().pop_output(&mut self.chunk, limit);
    }

    fn refill_within_limit(&mut self) -> bool {
        if self.unsent() > 0 {
            return true;
        }
        let waiting = self.port.line().waiting_output().min(CHUNK);
        let allowed = match &mut self.limiter {
            // Nothing waits: the ring has to be found empty, so that it wakes the console again.
            Some(limiter) if waiting > 0 => {
                usize::try_from(limiter.allow_some(u64::try_from(waiting).unwrap_or(0))).unwrap_or(0)
            }
            _ => CHUNK,
        };
        if allowed > 0 {
            self.refill(allowed);
        }
        self.unsent() > 0
    }

    fn send(&mut self) -> Sent {
        let Some(output) = &mut self.output else { return Sent::Gone };
        while let Some(rest) = self.chunk.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match output.file.write(rest) {
                Ok(0) => return Sent::Gone,
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::ReaderIsSlow,
                Err(error) => {
                    log::warn!("write console output: {error}; the guest's further output is dropped");
                    return Sent::Gone;
                }
            }
        }
        Sent::All
    }

    fn pump_output(&mut self, ops: &mut EventOps) {
        for _ in 0..TURN {
            if self.output.is_none() || !self.refill_within_limit() {
                return;
            }
            match self.send() {
                Sent::All => {}
                Sent::ReaderIsSlow => {
                    if !self.output.as_mut().is_some_and(|output| output.poll(ops, EventSet::OUT)) {
                        self.drop_output(ops);
                    }
                    return;
                }
                Sent::Gone => return self.drop_output(ops),
            }
        }
        self.port.line().wake_console();
    }

    fn drop_output(&mut self, ops: &mut EventOps) {
        if let Some(mut output) = self.output.take() {
            output.unpoll(ops);
        }
        let lost = self.port.line().disconnect().saturating_add(self.unsent());
        self.chunk.clear();
        self.sent = 0;
        self.port.line().counters().dropped_bytes.add(u64::try_from(lost).unwrap_or(0));
    }

    fn pump_input(&mut self, ops: &mut EventOps) {
        for _ in 0..TURN {
            let Some(input) = &mut self.input else { return };
            let Some(room) = room_for_input(&self.port) else { return input.unpoll(ops) };
            let mut buffer = [0; 64];
            let Some(buffer) = buffer.get_mut(..room.min(64)) else { return };
            match input.file.read(buffer) {
                Ok(0) => return self.end_input(ops),
                Ok(count) => self.port.receive(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && input.poll(ops, EventSet::IN) => return,
                Err(error) => {
                    log::warn!("read console input: {error}; the guest gets no more");
                    return self.end_input(ops);
                }
            }
        }
        self.port.line().wake_console();
    }

    fn end_input(&mut self, ops: &mut EventOps) {
        if let Some(mut input) = self.input.take() {
            input.unpoll(ops);
        }
    }

    fn is_output(&self, descriptor: RawFd) -> bool {
        self.output.as_ref().is_some_and(|output| output.file.as_raw_fd() == descriptor)
    }

    fn is_timer(&self, descriptor: RawFd) -> bool {
        self.limiter.as_ref().is_some_and(|limiter| limiter.timer().as_raw_fd() == descriptor)
    }
}

/// How far a write got.
enum Sent {
    All,
    ReaderIsSlow,
    Gone,
}

/// Room for input; if there's none, the port will wake the console when there is.
fn room_for_input(port: &SerialPort) -> Option<usize> {
    let room = |port: &SerialPort| Some(port.input_room()).filter(|&room| room > 0);
    room(port).or_else(|| {
        port.line().wake_on_input_room();
        // The guest may have read all of it just before.
        room(port)
    })
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        let wake = ops.add(Events::new(self.port.line().wake(), EventSet::IN));
        let timer = self.limiter.as_ref().map(|limiter| ops.add(Events::new(limiter.timer(), EventSet::IN)));
        for result in std::iter::once(wake).chain(timer) {
            if let Err(error) = result {
                log::error!("register console: {error}");
            }
        }
        for stream in self.output.iter_mut().chain(&mut self.input) {
            stream.is_polled = false;
        }
        self.pump_output(ops);
        self.pump_input(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let descriptor = events.fd();
        if descriptor == self.port.line().wake().as_raw_fd() {
            // Fails only if there was nothing to read, which is the aim.
            let _ = self.port.line().wake().read();
            self.pump_input(ops);
        } else if self.is_timer(descriptor) {
            self.limiter.iter_mut().for_each(RateLimiter::on_timer);
        } else if self.is_output(descriptor) {
            self.output.iter_mut().for_each(|output| output.unpoll(ops));
        } else {
            return self.pump_input(ops);
        }
        self.pump_output(ops);
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
