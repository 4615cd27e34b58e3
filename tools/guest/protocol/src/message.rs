//! The messages. Their meaning is here; the rules of a session are in the crate's documentation.

use serde::{Deserialize, Serialize, Serializer};

/// Number of a channel, picked by the host and unique in its session until the channel has ended.
pub type Channel = u32;

/// A stream of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Host to guest: standard input.
    Input,
    /// Guest to host: standard output, or everything a terminal shows.
    Output,
    /// Guest to host: standard error.
    Error,
}

/// From the host to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage<'a> {
    /// First on every session.
    Hello {
        /// The host's [`VERSION`](crate::VERSION).
        version: u32,
    },
    /// Prepares the guest; at most once, before the first `Start`. Answered by `Ready` or `Refused`.
    Setup(Setup<'a>),
    /// Starts something on a new channel. Answered by `Started`, or by `Ended` with [`End::Failed`].
    Start {
        /// The new channel.
        channel: Channel,
        /// What to start.
        #[serde(borrow)]
        task: Task<'a>,
    },
    /// Bytes for the input stream.
    Data {
        /// The channel.
        channel: Channel,
        /// 1 to [`MAX_DATA_BYTES`](crate::MAX_DATA_BYTES) bytes, covered by credit.
        #[serde(serialize_with = "at_once")]
        bytes: &'a [u8],
    },
    /// The input stream ends here.
    EndOfInput {
        /// The channel.
        channel: Channel,
    },
    /// Nobody reads this output stream any more: the command is to see a broken pipe.
    Close {
        /// The channel.
        channel: Channel,
        /// `Output` or `Error`.
        stream: Stream,
    },
    /// More bytes may be sent on an output stream.
    Credit {
        /// The channel.
        channel: Channel,
        /// `Output` or `Error`.
        stream: Stream,
        /// How many more.
        bytes: u32,
    },
    /// Sends a signal to the command's process group.
    Signal {
        /// The channel.
        channel: Channel,
        /// Number of the signal, as on x86_64 Linux.
        signal: u8,
    },
    /// The terminal has a new size.
    Resize {
        /// The channel.
        channel: Channel,
        /// The size.
        size: TerminalSize,
    },
    /// Ends every command, unmounts, and powers the guest off.
    PowerOff,
    /// Makes the guest one of its own: a clone has the clock and the random numbers of what it was cloned from. Sent before
    /// `Setup`, and answered only if it fails, by `Refused`.
    Renew(Renewal<'a>),
    /// The guest is about to be saved, and to be started from there again and again. On the first session, and before anything
    /// else; answered by `Held`. When the session breaks off after that, the agent is in a clone, and connects anew.
    Hold,
}

/// What every guest has for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal<'a> {
    /// The time: nanoseconds since 1970 (UTC).
    pub unix_time_ns: u64,
    /// At least [`ENTROPY_BYTES`](crate::ENTROPY_BYTES) random bytes that nobody else gets.
    pub entropy: &'a [u8],
}

/// How the guest is to be prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup<'a> {
    /// Host name of the guest.
    pub hostname: &'a str,
    /// The block device that holds the commands' root file system; without it commands run in the initramfs.
    pub root: Option<Root<'a>>,
}

/// A root file system for commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root<'a> {
    /// Path of the device in the guest, for instance `/dev/vda`.
    pub device: &'a str,
    /// Whether writes reach the image. If not, they go to an overlay in guest memory and are lost.
    pub writable: bool,
}

/// What a channel does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task<'a> {
    /// Runs a command.
    #[serde(borrow)]
    Command(Command<'a>),
    /// Unpacks the tar archive on the input stream so that its single top entry becomes `path`.
    Receive {
        /// Absolute path in the commands' root.
        path: &'a str,
    },
    /// Packs `path`, a file or a tree, into a tar archive on the output stream, under the name `path` ends with.
    Send {
        /// Absolute path in the commands' root.
        path: &'a str,
    },
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command<'a> {
    /// Program and arguments; empty for an interactive shell. The program is looked up in `PATH` if it has no slash.
    #[serde(borrow)]
    pub arguments: Vec<&'a [u8]>,
    /// `NAME=VALUE` entries, on top of a default `PATH`, `HOME` and `TERM`.
    #[serde(borrow)]
    pub environment: Vec<&'a [u8]>,
    /// Working directory; `None` for `/`.
    pub directory: Option<&'a [u8]>,
    /// With a size, the command gets a terminal of that size on all three streams, and `Stream::Error` stays silent.
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// From the agent to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage<'a> {
    /// First on every session.
    Hello {
        /// The agent's [`VERSION`](crate::VERSION).
        version: u32,
    },
    /// `Setup` is done.
    Ready,
    /// `Setup` failed; the session can only power the guest off.
    Refused {
        /// Why, in words.
        reason: &'a str,
    },
    /// The channel's command is running.
    Started {
        /// The channel.
        channel: Channel,
    },
    /// Bytes of an output stream.
    Data {
        /// The channel.
        channel: Channel,
        /// `Output` or `Error`.
        stream: Stream,
        /// 1 to [`MAX_DATA_BYTES`](crate::MAX_DATA_BYTES) bytes, covered by credit.
        #[serde(serialize_with = "at_once")]
        bytes: &'a [u8],
    },
    /// An output stream ends here.
    EndOfOutput {
        /// The channel.
        channel: Channel,
        /// `Output` or `Error`.
        stream: Stream,
    },
    /// The command closed its input: no more is to be sent, and credit is void.
    InputClosed {
        /// The channel.
        channel: Channel,
    },
    /// More bytes may be sent on the input stream.
    Credit {
        /// The channel.
        channel: Channel,
        /// How many more.
        bytes: u32,
    },
    /// The channel is over; sent after the end of its output streams. The number may be used again.
    Ended {
        /// The channel.
        channel: Channel,
        /// How it ended.
        end: End<'a>,
    },
    /// Nothing runs in the guest, and nothing will before the session breaks off: it may be saved.
    Held,
}

/// How a channel ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End<'a> {
    /// The command exited, or the transfer is complete (code 0).
    Exited(u8),
    /// A signal ended the command.
    Signaled(u8),
    /// It could not be started, or the transfer failed.
    Failed {
        /// 127: no such command; 126: it can't be executed; 125: anything else.
        code: u8,
        /// Why, in words, with the path.
        reason: &'a str,
    },
}

/// Bytes in one piece, in the encoding that serde would produce one by one.
fn at_once<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}
