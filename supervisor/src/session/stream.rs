//! The three streams of a channel, as the host sees them.
//!
//! Invariant: an [`OutputBuffer`] never holds more than a window, because the guest can only send what it has credit for, and
//! credit is granted for bytes that left the buffer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stockade_guest_protocol::{Channel, HostMessage, MAX_DATA_BYTES, ReceiveCredit, SendCredit, Stream};
use tokio::sync::Notify;

use super::{Frames, Violation};

/// Bytes on their way from the guest to whoever reads the stream.
#[derive(Debug, Default)]
pub(super) struct OutputBuffer {
    state: Mutex<OutputState>,
    readable: Notify,
}

#[derive(Debug, Default)]
struct OutputState {
    bytes: Vec<u8>,
    credit: ReceiveCredit,
    /// The guest sends no more.
    ended: bool,
    /// Nobody reads any more.
    closed: bool,
}

impl OutputBuffer {
    /// Takes bytes from the guest.
    pub(super) fn push(&self, bytes: &[u8]) -> Result<(), Violation> {
        let mut state = lock(&self.state);
        if state.ended {
            return Err(Violation::Rule("data after the end of a stream"));
        }
        if bytes.is_empty() || bytes.len() > MAX_DATA_BYTES {
            return Err(Violation::Rule("data of a forbidden length"));
        }
        state.credit.receive(bytes.len())?;
        if !state.closed {
            state.bytes.extend_from_slice(bytes);
        }
        drop(state);
        self.readable.notify_one();
        Ok(())
    }

    /// The guest ended the stream.
    pub(super) fn end(&self) -> Result<(), Violation> {
        let already = std::mem::replace(&mut lock(&self.state).ended, true);
        self.readable.notify_one();
        if already { Err(Violation::Rule("a stream ended twice")) } else { Ok(()) }
    }

    /// The channel is over, with or without an end of the stream.
    pub(super) fn end_with_channel(&self) {
        lock(&self.state).ended = true;
        self.readable.notify_one();
    }
}

/// Reads an output stream of a channel. Dropping it closes the stream: the guest's writer sees a broken pipe.
#[derive(Debug)]
pub struct Output {
    channel: Channel,
    stream: Stream,
    buffer: Arc<OutputBuffer>,
    frames: Frames,
}

impl Output {
    pub(super) fn new(channel: Channel, stream: Stream, buffer: Arc<OutputBuffer>, frames: Frames) -> Self {
        Self { channel, stream, buffer, frames }
    }

    /// The next bytes, at most a window; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = lock(&self.buffer.state);
                if !state.bytes.is_empty() {
                    return Some(std::mem::take(&mut state.bytes));
                }
                if state.ended {
                    return None;
                }
            }
            self.buffer.readable.notified().await;
        }
    }

    /// Tells the guest, when it is worth it, that `length` bytes of what [`next`](Self::next) returned were passed on.
    pub fn passed_on(&mut self, length: usize) {
        let mut state = lock(&self.buffer.state);
        if let Some(bytes) = state.credit.pass_on(length).filter(|_| !state.ended) {
            self.frames.send_short(&HostMessage::Credit { channel: self.channel, stream: self.stream, bytes });
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut state = lock(&self.buffer.state);
        state.closed = true;
        state.bytes = Vec::new();
        if !state.ended {
            self.frames.send_short(&HostMessage::Close { channel: self.channel, stream: self.stream });
        }
    }
}

/// What the guest takes of an input stream.
#[derive(Debug, Default)]
pub(super) struct InputGate {
    state: Mutex<InputState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct InputState {
    credit: SendCredit,
    closed: bool,
}

impl InputGate {
    /// The guest takes more.
    pub(super) fn grant(&self, bytes: u32) -> Result<(), Violation> {
        lock(&self.state).credit.grant(bytes)?;
        self.changed.notify_one();
        Ok(())
    }

    /// The guest takes no more.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_one();
    }

    /// Spends credit for at most `wanted` bytes, and returns for how many.
    async fn spend(&self, wanted: usize) -> Result<usize, InputClosed> {
        loop {
            {
                let mut state = lock(&self.state);
                let length = wanted.min(state.credit.next_data_bytes());
                if state.closed {
                    return Err(InputClosed);
                }
                if length > 0 && state.credit.spend(length).is_ok() {
                    return Ok(length);
                }
            }
            self.changed.notified().await;
        }
    }
}

/// The command does not read its input any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("input is closed")]
pub struct InputClosed;

/// Writes the input stream of a channel.
#[derive(Debug)]
pub struct Input {
    channel: Channel,
    gate: Arc<InputGate>,
    frames: Frames,
}

impl Input {
    pub(super) fn new(channel: Channel, gate: Arc<InputGate>, frames: Frames) -> Self {
        Self { channel, gate, frames }
    }

    /// Sends all of `bytes`, waiting for credit as needed.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), InputClosed> {
        while !bytes.is_empty() {
            let length = self.gate.spend(bytes.len()).await?;
            let (now, later) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
            self.frames.send_short(&HostMessage::Data { channel: self.channel, bytes: now });
            bytes = later;
        }
        Ok(())
    }

    /// Ends the stream.
    pub fn end(self) {
        self.frames.send_short(&HostMessage::EndOfInput { channel: self.channel });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
