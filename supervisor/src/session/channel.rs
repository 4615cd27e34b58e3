//! A channel: one command or transfer in the guest.

use std::sync::Arc;

use stockade_guest_protocol::{Channel, End, HostMessage, Stream, TerminalSize};
use tokio::sync::oneshot;

use super::stream::{Input, InputGate, Output, OutputBuffer};
use super::{Frames, SessionError, Violation};
use crate::text::printable;

/// How a channel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEnd {
    /// The command exited with this code, or the transfer is complete.
    Exited(u8),
    /// This signal ended the command.
    Signaled(u8),
    /// It could not be started, or the transfer failed.
    Failed {
        /// As a shell gives it: 127 for no such command, 126 for one that can't be executed.
        code: u8,
        /// Why, in words.
        reason: String,
    },
}

impl ChannelEnd {
    pub(super) fn from_guest(end: &End<'_>) -> Self {
        match end {
            End::Exited(code) => Self::Exited(*code),
            End::Signaled(signal) => Self::Signaled(*signal),
            End::Failed { code, reason } => Self::Failed { code: *code, reason: printable(reason) },
        }
    }
}

/// What the caller of [`Session::start`](super::Session::start) has of a channel.
#[derive(Debug)]
pub struct ChannelHandle {
    /// Standard input, or the archive to unpack.
    pub input: Input,
    /// Standard output, what a terminal shows, or the packed archive.
    pub output: Output,
    /// Standard error.
    pub error: Output,
    /// Signals and the terminal's size.
    pub control: Control,
    /// Start and end.
    pub life: Life,
}

/// Influences a running command.
#[derive(Debug, Clone)]
pub struct Control {
    channel: Channel,
    frames: Frames,
}

impl Control {
    /// Sends a signal, numbered as on x86_64 Linux, to the command's process group.
    pub fn signal(&self, signal: u8) {
        self.frames.send_short(&HostMessage::Signal { channel: self.channel, signal });
    }

    /// Tells the command's terminal its new size.
    pub fn resize(&self, size: TerminalSize) {
        self.frames.send_short(&HostMessage::Resize { channel: self.channel, size });
    }
}

/// Start and end of a channel.
#[derive(Debug)]
pub struct Life {
    started: oneshot::Receiver<()>,
    ended: oneshot::Receiver<ChannelEnd>,
}

impl Life {
    /// Waits until the guest says that the command runs, or that it ended without having started.
    pub async fn started(&mut self) {
        let _ = (&mut self.started).await;
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Result<ChannelEnd, SessionError> {
        (&mut self.ended).await.map_err(|_| SessionError::Lost)
    }
}

/// The session's part of a channel.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) input: Arc<InputGate>,
    pub(super) output: Arc<OutputBuffer>,
    pub(super) error: Arc<OutputBuffer>,
    started: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Sender<ChannelEnd>>,
}

impl Entry {
    pub(super) fn started(&mut self) -> Result<(), Violation> {
        let sender = self.started.take().ok_or(Violation::Rule("a channel started twice"))?;
        let _ = sender.send(());
        Ok(())
    }

    pub(super) fn ended(mut self, end: ChannelEnd) {
        if let Some(sender) = self.ended.take() {
            let _ = sender.send(end);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.input.close();
        self.output.end_with_channel();
        self.error.end_with_channel();
    }
}

pub(super) fn pair(channel: Channel, frames: Frames) -> (Entry, ChannelHandle) {
    let (started_sender, started) = oneshot::channel();
    let (ended_sender, ended) = oneshot::channel();
    let entry = Entry {
        input: Arc::default(),
        output: Arc::default(),
        error: Arc::default(),
        started: Some(started_sender),
        ended: Some(ended_sender),
    };
    let output = |stream, buffer: &Arc<OutputBuffer>| Output::new(channel, stream, buffer.clone(), frames.clone());
    let handle = ChannelHandle {
        input: Input::new(channel, entry.input.clone(), frames.clone()),
        output: output(Stream::Output, &entry.output),
        error: output(Stream::Error, &entry.error),
        control: Control { channel, frames: frames.clone() },
        life: Life { started, ended },
    };
    (entry, handle)
}
