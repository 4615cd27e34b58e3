//! One channel: a command or transfer that runs, and its streams.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::PollFlags;
use rustix::process::PidfdFlags;
use stockade_guest_protocol::{
    Channel, CreditError, End, GuestMessage, MAX_DATA_BYTES, OUTPUT_GRACE_MS, Stream, TerminalSize,
};

use crate::command::{self, Streams};
use crate::session::{Outgoing, SessionError};
use crate::stream::{Input, Kind, Output, Passed, Read};
use crate::transfer::{self, Transfer};

/// Most bytes of a reason that the host is told.
const MAX_REASON_BYTES: usize = 4096;

/// A part of a channel that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Input,
    Output(Stream),
    Work,
}

#[derive(Debug)]
enum Work {
    Command { child: Child, process: OwnedFd },
    Transfer(Transfer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Exited(u8),
    Signaled(u8),
    Failed(String),
}

/// Invariant: a stream that is `None` is over, and the host has been told.
#[derive(Debug)]
pub(crate) struct Running {
    channel: Channel,
    work: Work,
    input: Option<Input>,
    output: Option<Output>,
    error: Option<Output>,
    terminal: Option<OwnedFd>,
    ending: Option<Ending>,
    /// When output is cut off, once the command has ended.
    deadline: Option<Instant>,
}

impl Running {
    /// The channel of a command that was started.
    pub(crate) fn command(channel: Channel, started: command::Started, host: &mut Outgoing) -> io::Result<Self> {
        let command::Started { child, streams } = started;
        let id = rustix::process::Pid::from_child(&child);
        let process = rustix::process::pidfd_open(id, PidfdFlags::empty())?;
        let mut running = Self::new(channel, Work::Command { child, process });
        match streams {
            Streams::Pipes { input, output, error } => {
                running.input = Some(Input::new(input, Kind::Pipe)?);
                running.output = Some(Output::new(output)?);
                running.error = Some(Output::new(error)?);
            }
            Streams::Terminal(controller) => {
                running.input = Some(Input::new(controller.try_clone()?, Kind::Terminal)?);
                running.output = Some(Output::new(controller.try_clone()?)?);
                running.terminal = Some(controller);
            }
        }
        host.send(&GuestMessage::Started { channel });
        if running.error.is_none() {
            host.send(&GuestMessage::EndOfOutput { channel, stream: Stream::Error });
        }
        Ok(running)
    }

    /// The channel of a transfer that was started, with its one end of a pipe.
    pub(crate) fn transfer(channel: Channel, started: transfer::Started, host: &mut Outgoing) -> io::Result<Self> {
        let transfer::Started { transfer, input, output } = started;
        let mut running = Self::new(channel, Work::Transfer(transfer));
        host.send(&GuestMessage::Started { channel });
        host.send(&GuestMessage::EndOfOutput { channel, stream: Stream::Error });
        match output {
            Some(output) => running.output = Some(Output::new(output)?),
            None => host.send(&GuestMessage::EndOfOutput { channel, stream: Stream::Output }),
        }
        match input {
            Some(input) => running.input = Some(Input::new(input, Kind::Pipe)?),
            None => host.send(&GuestMessage::InputClosed { channel }),
        }
        Ok(running)
    }

    fn new(channel: Channel, work: Work) -> Self {
        Self { channel, work, input: None, output: None, error: None, terminal: None, ending: None, deadline: None }
    }

    /// What to wait for. Outputs are left out while the host takes no more.
    pub(crate) fn interests(&self, outputs: Outputs) -> impl Iterator<Item = (Part, BorrowedFd<'_>, PollFlags)> {
        let input =
            self.input.as_ref().and_then(|input| Some((Part::Input, input.descriptor().as_fd(), input.interest()?)));
        let outputs = [(Stream::Output, &self.output), (Stream::Error, &self.error)]
            .into_iter()
            .filter(move |_| outputs == Outputs::Wanted)
            .filter_map(|(stream, output)| Some((stream, output.as_ref()?)))
            .filter_map(|(stream, output)| {
                Some((Part::Output(stream), output.descriptor().as_fd(), output.interest()?))
            });
        let work = match &self.work {
            Work::Command { process, .. } => process.as_fd(),
            Work::Transfer(transfer) => transfer.finished(),
        };
        let work = self.ending.is_none().then_some((Part::Work, work, PollFlags::IN));
        input.into_iter().chain(outputs).chain(work)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether this is the process of this channel, and not yet buried.
    pub(crate) fn is_process(&self, id: u32) -> bool {
        matches!(&self.work, Work::Command { child, .. } if self.ending.is_none() && child.id() == id)
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], host: &mut Outgoing) -> Result<(), SessionError> {
        // What crosses `InputClosed` on its way is lost, as in any pipe.
        let Some(input) = &mut self.input else { return Ok(()) };
        if input.is_ended() {
            return Err(SessionError::Rule("data after the end of the input"));
        }
        input.receive(bytes)?;
        self.pass_input_on(host);
        Ok(())
    }

    pub(crate) fn end_input(&mut self, host: &mut Outgoing) {
        if let Some(input) = &mut self.input {
            input.end();
            self.pass_input_on(host);
        }
    }

    fn pass_input_on(&mut self, host: &mut Outgoing) {
        let channel = self.channel;
        match self.input.as_mut().map(Input::pass_on) {
            Some(Passed::On(Some(bytes))) => host.send(&GuestMessage::Credit { channel, bytes }),
            Some(Passed::On(None)) | None => {}
            Some(Passed::Ended) => self.input = None,
            Some(Passed::Closed) => {
                self.input = None;
                host.send(&GuestMessage::InputClosed { channel });
            }
        }
    }

    fn output(&mut self, stream: Stream) -> &mut Option<Output> {
        if stream == Stream::Error { &mut self.error } else { &mut self.output }
    }

    pub(crate) fn grant(&mut self, stream: Stream, bytes: u32) -> Result<(), CreditError> {
        self.output(stream).as_mut().map_or(Ok(()), |output| output.grant(bytes))
    }

    /// Ends an output stream; whoever writes to it sees a broken pipe.
    pub(crate) fn close(&mut self, stream: Stream, host: &mut Outgoing) {
        if self.output(stream).take().is_some() {
            host.send(&GuestMessage::EndOfOutput { channel: self.channel, stream });
        }
        if stream == Stream::Output && self.terminal.take().is_some() {
            // Without its last descriptor the terminal hangs up.
            self.input = None;
        }
    }

    pub(crate) fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            // A terminal that has just hung up has no size.
            let _ = command::resize(terminal, size);
        }
    }

    /// Signals the command's process group, or stops a transfer, for which every signal means the same.
    pub(crate) fn signal(&mut self, number: u8, host: &mut Outgoing) {
        match &self.work {
            Work::Command { child, .. } if self.ending.is_none() => {
                if let (Ok(signal), Ok(id)) = (Signal::try_from(i32::from(number)), i32::try_from(child.id())) {
                    // The group may have ended a moment ago.
                    let _ = killpg(Pid::from_raw(id), signal);
                }
            }
            Work::Command { .. } => {}
            Work::Transfer(_) => {
                self.input = None;
                self.close(Stream::Output, host);
            }
        }
    }

    /// Does what is possible now on the part that is ready.
    pub(crate) fn ready(
        &mut self,
        part: Part,
        flags: PollFlags,
        buffer: &mut [u8; MAX_DATA_BYTES],
        host: &mut Outgoing,
    ) {
        match part {
            Part::Input if flags.intersects(PollFlags::ERR | PollFlags::HUP) => {
                self.input = None;
                host.send(&GuestMessage::InputClosed { channel: self.channel });
            }
            Part::Input => self.pass_input_on(host),
            Part::Output(stream) => self.read(stream, buffer, host),
            Part::Work => self.work_ended(),
        }
    }

    fn read(&mut self, stream: Stream, buffer: &mut [u8; MAX_DATA_BYTES], host: &mut Outgoing) {
        let channel = self.channel;
        let Some(output) = self.output(stream) else { return };
        match output.read(buffer) {
            Read::Bytes(bytes) => host.send(&GuestMessage::Data { channel, stream, bytes }),
            Read::Nothing => {}
            Read::End => {
                *self.output(stream) = None;
                host.send(&GuestMessage::EndOfOutput { channel, stream });
            }
        }
    }

    fn work_ended(&mut self) {
        self.ending = match &mut self.work {
            Work::Transfer(transfer) => Some(transfer.result().map_or_else(Ending::Failed, |()| Ending::Exited(0))),
            Work::Command { child, .. } => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(ending(status)),
                Err(error) => Some(Ending::Failed(format!("wait for the command: {error}"))),
            },
        };
        if self.ending.is_some() {
            self.deadline = Instant::now().checked_add(Duration::from_millis(OUTPUT_GRACE_MS.into()));
        }
    }

    /// Cuts outputs off if it is time to.
    pub(crate) fn tick(&mut self, now: Instant, host: &mut Outgoing) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        for stream in [Stream::Output, Stream::Error] {
            let Some(output) = self.output(stream) else { continue };
            output.cut_off();
            if output.is_over() {
                *self.output(stream) = None;
                host.send(&GuestMessage::EndOfOutput { channel: self.channel, stream });
            }
        }
    }

    /// How the channel ended, once its outputs are over as well.
    pub(crate) fn end(&self) -> Option<End<'_>> {
        if self.output.is_some() || self.error.is_some() {
            return None;
        }
        Some(match self.ending.as_ref()? {
            Ending::Exited(code) => End::Exited(*code),
            Ending::Signaled(signal) => End::Signaled(*signal),
            Ending::Failed(reason) => End::Failed { code: 125, reason: short(reason) },
        })
    }
}

/// Whether outputs are read, or left alone because the host is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    Wanted,
    Unwanted,
}

fn ending(status: std::process::ExitStatus) -> Ending {
    // Both are below 256 in Linux.
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(byte(code)),
        (None, Some(signal)) => Ending::Signaled(byte(signal)),
        (None, None) => Ending::Failed(format!("the command ended with {status}")),
    }
}

/// The beginning of a reason that may quote what is long.
pub(crate) fn short(reason: &str) -> &str {
    let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|&at| reason.is_char_boundary(at)).unwrap_or(0);
    reason.get(..end).unwrap_or_default()
}
