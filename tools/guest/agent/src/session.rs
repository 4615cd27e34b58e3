//! One session: a socket to the host, and the channels that the host opened over it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use stockade_guest_protocol::{
    Channel, CreditError, Decoder, End, FrameError, GuestMessage, HostMessage, MAX_CHANNELS, MAX_DATA_BYTES, Stream,
    Task, VERSION, WINDOW_BYTES, encode,
};

use crate::agent::{Guest, Verdict};
use crate::channel::{Outputs, Part, Running, short};
use crate::command;
use crate::transfer;

/// Bytes that wait for the socket, above which no output is read.
const MAX_WAITING_BYTES: usize = WINDOW_BYTES as usize;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the connection to the host is gone")]
    Lost,
    #[error("talk to the host: {0}")]
    Socket(Errno),
    #[error("the host speaks version {0} of the protocol, and not {VERSION}")]
    Version(u32),
    #[error("the host broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the host broke the protocol: {0}")]
    Credit(#[from] CreditError),
    #[error("the host broke the protocol: {0}")]
    Rule(&'static str),
}

/// Frames that wait for the socket.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Queues a message. All that the agent sends fits in a frame.
    pub(crate) fn send(&mut self, message: &GuestMessage<'_>) {
        let encoded = encode(message, &mut self.bytes);
        debug_assert!(encoded.is_ok(), "{message:?}: {encoded:?}");
    }

    fn waiting(&self) -> usize {
        self.bytes.len().saturating_sub(self.sent)
    }

    fn flush(&mut self, socket: &OwnedFd) -> Result<(), SessionError> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(socket, rest) {
                Ok(length) => self.sent = self.sent.saturating_add(length),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(SessionError::Lost),
                Err(errno) => return Err(SessionError::Socket(errno)),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

/// What is ready in a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ready {
    Socket,
    Channel(Channel, Part),
}

#[derive(Debug)]
pub(crate) struct Session {
    socket: OwnedFd,
    decoder: Decoder,
    outgoing: Outgoing,
    greeted: bool,
    channels: BTreeMap<Channel, Running>,
}

impl Session {
    /// Greets the host on a socket that was just connected.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, SessionError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(SessionError::Socket)?;
        let mut outgoing = Outgoing::default();
        outgoing.send(&GuestMessage::Hello { version: VERSION });
        outgoing.flush(&socket)?;
        Ok(Self { socket, decoder: Decoder::new(), outgoing, greeted: false, channels: BTreeMap::new() })
    }

    /// What to wait for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (Ready, BorrowedFd<'_>, PollFlags)> {
        let waiting = self.outgoing.waiting();
        let (outputs, mut socket) = if waiting < MAX_WAITING_BYTES {
            (Outputs::Wanted, PollFlags::IN)
        } else {
            // Answers are small, but a host that asks for ever and never listens must not fill the memory.
            (Outputs::Unwanted, PollFlags::empty())
        };
        socket.set(PollFlags::OUT, waiting > 0);
        let channels = self.channels.iter().flat_map(move |(&channel, running)| {
            running.interests(outputs).map(move |(part, fd, flags)| (Ready::Channel(channel, part), fd, flags))
        });
        std::iter::once((Ready::Socket, self.socket.as_fd(), socket)).chain(channels)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.channels.values().filter_map(Running::deadline).min()
    }

    pub(crate) fn is_command(&self, id: u32) -> bool {
        self.channels.values().any(|running| running.is_process(id))
    }

    /// Does what is possible now on what is ready.
    pub(crate) fn ready(
        &mut self,
        ready: Ready,
        flags: PollFlags,
        buffer: &mut [u8; MAX_DATA_BYTES],
        guest: &mut Guest,
    ) -> Result<Verdict, SessionError> {
        match ready {
            Ready::Channel(channel, part) => {
                if let Some(running) = self.channels.get_mut(&channel) {
                    running.ready(part, flags, buffer, &mut self.outgoing);
                }
                Ok(Verdict::GoOn)
            }
            Ready::Socket => {
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.read(guest)
                } else {
                    Ok(Verdict::GoOn)
                }
            }
        }
    }

    /// Ends what is over, and sends what waits.
    pub(crate) fn settle(&mut self, now: Instant) -> Result<(), SessionError> {
        let outgoing = &mut self.outgoing;
        self.channels.retain(|&channel, running| {
            running.tick(now, outgoing);
            let end = running.end();
            let over = end.is_some();
            if let Some(end) = end {
                outgoing.send(&GuestMessage::Ended { channel, end });
            }
            !over
        });
        self.outgoing.flush(&self.socket)
    }

    fn read(&mut self, guest: &mut Guest) -> Result<Verdict, SessionError> {
        match rustix::io::read(&self.socket, self.decoder.space()) {
            Ok(0) | Err(Errno::CONNRESET) => return Err(SessionError::Lost),
            Ok(length) => self.decoder.filled(length),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Verdict::GoOn),
            Err(errno) => return Err(SessionError::Socket(errno)),
        }
        let Self { decoder, outgoing, greeted, channels, .. } = self;
        let mut receiver = Receiver { outgoing, greeted, channels, guest };
        while let Some(message) = decoder.next::<HostMessage<'_>>()? {
            if receiver.receive(message)? == Verdict::PowerOff {
                return Ok(Verdict::PowerOff);
            }
        }
        Ok(Verdict::GoOn)
    }

    /// Kills what still runs, because nobody is left to hear of it.
    pub(crate) fn abandon(mut self) {
        for running in self.channels.values_mut() {
            running.signal(libc::SIGKILL.unsigned_abs().to_le_bytes()[0], &mut self.outgoing);
        }
    }
}

/// A session without what messages are read from.
struct Receiver<'s> {
    outgoing: &'s mut Outgoing,
    greeted: &'s mut bool,
    channels: &'s mut BTreeMap<Channel, Running>,
    guest: &'s mut Guest,
}

impl Receiver<'_> {
    fn receive(&mut self, message: HostMessage<'_>) -> Result<Verdict, SessionError> {
        if !*self.greeted {
            return match message {
                HostMessage::Hello { version: VERSION } => {
                    *self.greeted = true;
                    Ok(Verdict::GoOn)
                }
                HostMessage::Hello { version } => Err(SessionError::Version(version)),
                _ => Err(SessionError::Rule("no greeting")),
            };
        }
        match message {
            HostMessage::PowerOff => return Ok(Verdict::PowerOff),
            HostMessage::Hello { .. } => return Err(SessionError::Rule("a second greeting")),
            HostMessage::Renew(renewal) => {
                if let Err(reason) = self.guest.renew(&renewal)? {
                    self.outgoing.send(&GuestMessage::Refused { reason: short(&reason) });
                }
            }
            HostMessage::Hold => {
                self.guest.hold()?;
                self.outgoing.send(&GuestMessage::Held);
            }
            HostMessage::Setup(setup) => match self.guest.set_up(&setup)? {
                Ok(()) => self.outgoing.send(&GuestMessage::Ready),
                Err(reason) => self.outgoing.send(&GuestMessage::Refused { reason: short(&reason) }),
            },
            HostMessage::Start { channel, task } => self.start(channel, task)?,
            message => self.about_channel(message)?,
        }
        Ok(Verdict::GoOn)
    }

    fn start(&mut self, channel: Channel, task: Task<'_>) -> Result<(), SessionError> {
        self.guest.start()?;
        if self.channels.contains_key(&channel) {
            return Err(SessionError::Rule("a channel that is already open"));
        }
        let started = if self.channels.len() < MAX_CHANNELS {
            self.run(channel, task)
        } else {
            Err((125, format!("the session has {MAX_CHANNELS} channels, which is the most; wait until one has ended")))
        };
        match started {
            Ok(running) => {
                self.channels.insert(channel, running);
            }
            Err((code, reason)) => {
                let end = End::Failed { code, reason: short(&reason) };
                self.outgoing.send(&GuestMessage::Ended { channel, end });
            }
        }
        Ok(())
    }

    fn run(&mut self, channel: Channel, task: Task<'_>) -> Result<Running, (u8, String)> {
        let failed = |error: std::io::Error| (125, format!("open the channel: {error}"));
        match task {
            Task::Command(asked) => {
                let started = command::start(&asked).map_err(|error| (error.code(), error.to_string()))?;
                Running::command(channel, started, self.outgoing).map_err(failed)
            }
            Task::Receive { path } => {
                let started = transfer::receive(path).map_err(failed)?;
                Running::transfer(channel, started, self.outgoing).map_err(failed)
            }
            Task::Send { path } => {
                let started = transfer::send(path).map_err(failed)?;
                Running::transfer(channel, started, self.outgoing).map_err(failed)
            }
        }
    }

    /// A message about a channel that has just ended is one that crossed `Ended` on its way.
    fn about_channel(&mut self, message: HostMessage<'_>) -> Result<(), SessionError> {
        let channel = match message {
            HostMessage::Data { channel, .. }
            | HostMessage::EndOfInput { channel }
            | HostMessage::Close { channel, .. }
            | HostMessage::Credit { channel, .. }
            | HostMessage::Signal { channel, .. }
            | HostMessage::Resize { channel, .. } => channel,
            _ => return Ok(()),
        };
        let Some(running) = self.channels.get_mut(&channel) else { return Ok(()) };
        match message {
            HostMessage::Data { bytes, .. } if bytes.is_empty() || bytes.len() > MAX_DATA_BYTES => {
                return Err(SessionError::Rule("data of a forbidden length"));
            }
            HostMessage::Close { stream: Stream::Input, .. } | HostMessage::Credit { stream: Stream::Input, .. } => {
                return Err(SessionError::Rule("an input stream where an output stream belongs"));
            }
            HostMessage::Data { bytes, .. } => running.receive(bytes, self.outgoing)?,
            HostMessage::EndOfInput { .. } => running.end_input(self.outgoing),
            HostMessage::Close { stream, .. } => running.close(stream, self.outgoing),
            HostMessage::Credit { stream, bytes, .. } => running.grant(stream, bytes)?,
            HostMessage::Signal { signal, .. } => running.signal(signal, self.outgoing),
            HostMessage::Resize { size, .. } => running.resize(size),
            _ => {}
        }
        Ok(())
    }
}
