//! The three streams of a channel, as the host sees them.
//!
//! Invariant: an [`OutputBuffer`] never holds more than [`WINDOW_BYTES`], because the guest can only send what it has credit
//! for, and credit is granted for bytes that left the buffer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stockade_guest_protocol::{Channel, HostMessage, MAX_DATA_BYTES, Stream, WINDOW_BYTES};
use tokio::sync::{Notify, Semaphore};

use super::{Frames, Violation};

/// Credit is granted in portions of at least this many bytes, so that small reads don't each cost a message.
const GRANT_BYTES: u32 = WINDOW_BYTES / 4;

/// Bytes on their way from the guest to whoever reads the stream.
#[derive(Debug)]
pub(super) struct OutputBuffer {
    state: Mutex<OutputState>,
    readable: Notify,
}

#[derive(Debug)]
struct OutputState {
    bytes: Vec<u8>,
    credit: u32,
    ended: bool,
    closed: bool,
}

impl OutputBuffer {
    pub(super) fn new() -> Arc<Self> {
        let state = OutputState { bytes: Vec::new(), credit: WINDOW_BYTES, ended: false, closed: false };
        Arc::new(Self { state: Mutex::new(state), readable: Notify::new() })
    }

    /// Takes bytes from the guest.
    pub(super) fn push(&self, bytes: &[u8]) -> Result<(), Violation> {
        let mut state = self.lock();
        if state.ended {
            return Err(Violation("data after the end of a stream"));
        }
        if bytes.is_empty() || bytes.len() > MAX_DATA_BYTES {
            return Err(Violation("data of a forbidden length"));
        }
        let spent = u32::try_from(bytes.len()).ok().and_then(|length| state.credit.checked_sub(length));
        state.credit = spent.ok_or(Violation("data without credit"))?;
        if !state.closed {
            state.bytes.extend_from_slice(bytes);
        }
        drop(state);
        self.readable.notify_one();
        Ok(())
    }

    /// The guest ended the stream.
    pub(super) fn end(&self) -> Result<(), Violation> {
        let already = std::mem::replace(&mut self.lock().ended, true);
        self.readable.notify_one();
        if already { Err(Violation("a stream ended twice")) } else { Ok(()) }
    }

    /// The channel is over, with or without an end of the stream.
    pub(super) fn end_with_channel(&self) {
        self.lock().ended = true;
        self.readable.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an output stream of a channel. Dropping it closes the stream: the guest's writer sees a broken pipe.
#[derive(Debug)]
pub struct Output {
    channel: Channel,
    stream: Stream,
    buffer: Arc<OutputBuffer>,
    frames: Frames,
    /// Bytes that were passed on, and for which no credit was granted yet.
    owed: u32,
}

impl Output {
    pub(super) fn new(channel: Channel, stream: Stream, buffer: Arc<OutputBuffer>, frames: Frames) -> Self {
        Self { channel, stream, buffer, frames, owed: 0 }
    }

    /// The next bytes, at most a window; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.buffer.lock();
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

    /// Tells the guest that `length` bytes of what [`next`](Self::next) returned were passed on.
    pub fn passed_on(&mut self, length: usize) {
        self.owed = self.owed.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
        if self.owed < GRANT_BYTES {
            return;
        }
        let bytes = std::mem::take(&mut self.owed);
        {
            let mut state = self.buffer.lock();
            if state.ended {
                return;
            }
            state.credit = state.credit.saturating_add(bytes);
        }
        self.frames.send(&HostMessage::Credit { channel: self.channel, stream: self.stream, bytes });
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        state.closed = true;
        state.bytes = Vec::new();
        if !state.ended {
            self.frames.send(&HostMessage::Close { channel: self.channel, stream: self.stream });
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
    pub(super) channel: Channel,
    /// A permit is a byte of credit; closed when the guest takes no more.
    pub(super) credit: Arc<Semaphore>,
    pub(super) frames: Frames,
}

impl Input {
    /// Sends all of `bytes`, waiting for credit as needed.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), InputClosed> {
        while !bytes.is_empty() {
            self.credit.acquire().await.map_err(|_| InputClosed)?.forget();
            let wanted = bytes.len().min(MAX_DATA_BYTES).saturating_sub(1);
            let length = 1_usize.saturating_add(self.credit.forget_permits(wanted));
            let (now, later) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
            self.frames.send(&HostMessage::Data { channel: self.channel, bytes: now });
            bytes = later;
        }
        Ok(())
    }

    /// Ends the stream.
    pub fn end(self) {
        self.frames.send(&HostMessage::EndOfInput { channel: self.channel });
    }
}

/// Adds `bytes` of credit that the guest granted.
pub(super) fn grant(credit: &Semaphore, bytes: u32) -> Result<(), Violation> {
    let bytes = usize::try_from(bytes).map_err(|_| Violation("credit beyond the window"))?;
    let window = usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX);
    if credit.available_permits().saturating_add(bytes) > window {
        return Err(Violation("credit beyond the window"));
    }
    credit.add_permits(bytes);
    Ok(())
}
