//! The host's side of a session with `stockade-agent` (see [`stockade_guest_protocol`] for the protocol).
//!
//! A [`Connection`] is greeted and, for the first session with a guest, set up. It then becomes two things: a [`Session`], with
//! which things are started in the guest, and a future that owns the socket and has to be polled beside whatever uses the
//! session. That future only ends when the session does, and says why; everything that waits for the guest then fails too.
//!
//! The guest is hostile: whatever the protocol does not allow is a [`Violation`] and ends the session, and what it can
//! make the host keep is bounded by one window for each output stream that the host itself asked for.

mod channel;
#[cfg(test)]
pub(crate) mod fake;
mod frames;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stockade_guest_protocol::{
    Channel, CreditError, Decoder, FrameError, GuestMessage, HostMessage, Renewal, Setup, Stream, Task, VERSION,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::text::printable;
use frames::Frames;

pub use channel::{ChannelEnd, ChannelHandle};
pub use stream::{Input, InputClosed, Output};

/// The guest did what the protocol forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Bytes that are no frame.
    #[error("the guest's agent broke the protocol: {0}")]
    Frame(FrameError),
    /// Data or credit beyond the limit.
    #[error("the guest's agent broke the protocol: {0}")]
    Credit(#[from] CreditError),
    /// Anything else.
    #[error("the guest's agent broke the protocol: {0}")]
    Rule(&'static str),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The guest's end was closed.
    #[error("the connection to the guest's agent broke off")]
    Lost,
    /// The socket failed.
    #[error("talk to the guest's agent")]
    Socket(#[source] io::Error),
    /// Another version of the protocol.
    #[error("the guest's agent speaks version {0} of the protocol, not {VERSION}; use an initramfs of this Stockade")]
    Version(u32),
    /// A hostile or broken guest.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Something that does not fit in a message, most likely a command with too many arguments.
    #[error("the request is too long for the guest's agent; pass less as arguments and environment")]
    Request(#[source] FrameError),
    /// The guest could not be prepared.
    #[error("the guest could not be prepared: {0}")]
    Refused(String),
}

/// A connection to an agent, before anything is started over it.
#[derive(Debug)]
pub struct Connection<R, W> {
    reader: R,
    writer: W,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Greets the agent and waits until it has greeted back: until the guest has booted, on the first session.
    pub async fn greet(reader: R, mut writer: W) -> Result<Self, SessionError> {
        frames::write_one(&mut writer, &HostMessage::Hello { version: VERSION }).await?;
        let mut connection = Self { reader, writer, decoder: Decoder::new() };
        let greeting = |message: &GuestMessage<'_>| match message {
            GuestMessage::Hello { version: VERSION } => Ok(()),
            GuestMessage::Hello { version } => Err(SessionError::Version(*version)),
            _ => Err(Violation::Rule("no greeting").into()),
        };
        frames::read(&mut connection.reader, &mut connection.decoder, greeting).await?;
        Ok(connection)
    }

    /// Gives the guest the time, and random numbers of its own. Whether that worked, the answer to [`set_up`](Self::set_up) tells.
    pub async fn renew(&mut self, renewal: Renewal<'_>) -> Result<(), SessionError> {
        frames::write_one(&mut self.writer, &HostMessage::Renew(renewal)).await
    }

    /// Has the guest wait to be saved, and returns when it does.
    pub async fn hold(&mut self) -> Result<(), SessionError> {
        frames::write_one(&mut self.writer, &HostMessage::Hold).await?;
        let answer = |message: &GuestMessage<'_>| match message {
            GuestMessage::Held => Ok(()),
            _ => Err(Violation::Rule("no answer to the hold").into()),
        };
        frames::read(&mut self.reader, &mut self.decoder, answer).await
    }

    /// Prepares the guest for its first command.
    pub async fn set_up(&mut self, setup: Setup<'_>) -> Result<(), SessionError> {
        frames::write_one(&mut self.writer, &HostMessage::Setup(setup)).await?;
        let answer = |message: &GuestMessage<'_>| match message {
            GuestMessage::Ready => Ok(()),
            GuestMessage::Refused { reason } => Err(SessionError::Refused(printable(reason))),
            _ => Err(Violation::Rule("no answer to the setup").into()),
        };
        frames::read(&mut self.reader, &mut self.decoder, answer).await
    }

    /// The session, and the future that keeps it going.
    pub fn into_session(self) -> (Session, impl Future<Output = SessionError>) {
        let (frames, queue) = Frames::new();
        let session = Session { frames, state: Arc::default() };
        let state = session.state.clone();
        (session, drive(self, queue, state))
    }
}

async fn drive<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    connection: Connection<R, W>,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    state: Arc<Mutex<State>>,
) -> SessionError {
    let Connection { mut reader, writer, mut decoder } = connection;
    let receive = async {
        loop {
            let receive = |message: &GuestMessage<'_>| Ok(lock(&state).receive(message)?);
            frames::read(&mut reader, &mut decoder, receive).await?;
        }
    };
    let ended: Result<(), SessionError> = tokio::select! {
        ended = receive => ended,
        ended = frames::write(queue, writer) => ended,
    };
    // Whoever waits for an answer learns that none will come.
    lock(&state).channels.clear();
    ended.err().unwrap_or(SessionError::Lost)
}

/// Starts things in a guest.
#[derive(Debug, Clone)]
pub struct Session {
    frames: Frames,
    state: Arc<Mutex<State>>,
}

impl Session {
    /// Starts `task` on a channel of its own.
    pub fn start(&self, task: Task<'_>) -> Result<ChannelHandle, SessionError> {
        let mut state = lock(&self.state);
        let mut channel = state.next_channel;
        while state.channels.contains_key(&channel) {
            channel = channel.wrapping_add(1);
        }
        state.next_channel = channel.wrapping_add(1);
        self.frames.send(&HostMessage::Start { channel, task })?;
        let (entry, handle) = channel::pair(channel, self.frames.clone());
        state.channels.insert(channel, entry);
        Ok(handle)
    }

    /// Asks the agent to end every command, unmount, and power the guest off.
    pub fn power_off(&self) {
        self.frames.send_short(&HostMessage::PowerOff);
    }
}

#[derive(Debug, Default)]
struct State {
    channels: HashMap<Channel, channel::Entry>,
    next_channel: Channel,
}

impl State {
    fn receive(&mut self, message: &GuestMessage<'_>) -> Result<(), Violation> {
        match message {
            GuestMessage::Hello { .. } | GuestMessage::Ready | GuestMessage::Refused { .. } | GuestMessage::Held => {
                Err(Violation::Rule("an answer to nothing"))
            }
            GuestMessage::Started { channel } => self.entry(*channel)?.started(),
            GuestMessage::Data { channel, stream, bytes } => self.output(*channel, *stream)?.push(bytes),
            GuestMessage::EndOfOutput { channel, stream } => self.output(*channel, *stream)?.end(),
            GuestMessage::InputClosed { channel } => {
                self.entry(*channel)?.input.close();
                Ok(())
            }
            GuestMessage::Credit { channel, bytes } => self.entry(*channel)?.input.grant(*bytes),
            GuestMessage::Ended { channel, end } => {
                let entry = self.channels.remove(channel).ok_or(UNKNOWN_CHANNEL)?;
                entry.ended(ChannelEnd::from_guest(end));
                Ok(())
            }
        }
    }

    fn entry(&mut self, channel: Channel) -> Result<&mut channel::Entry, Violation> {
        self.channels.get_mut(&channel).ok_or(UNKNOWN_CHANNEL)
    }

    fn output(&mut self, channel: Channel, stream: Stream) -> Result<&stream::OutputBuffer, Violation> {
        let entry = self.entry(channel)?;
        match stream {
            Stream::Input => Err(Violation::Rule("data for the input stream")),
            Stream::Output => Ok(&entry.output),
            Stream::Error => Ok(&entry.error),
        }
    }
}

const UNKNOWN_CHANNEL: Violation = Violation::Rule("a channel that is not open");

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
