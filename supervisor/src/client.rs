//! The caller's side of a command: three streams, and what the caller does meanwhile.
//!
//! The streams may be files, pipes, sockets or terminals, shared with other processes and in any mode, so they are read and
//! written by threads that may block, and that also cope with somebody else's `O_NONBLOCK`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use stockade_guest_protocol::TerminalSize;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::session::{Input, Output};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The caller of a command.
#[derive(Debug)]
pub struct Client {
    /// What the command reads.
    pub input: OwnedFd,
    /// Where its output goes.
    pub output: OwnedFd,
    /// Where its errors go.
    pub error: OwnedFd,
    /// What the caller does.
    pub notices: Notices,
}

/// Something that the caller did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A signal, numbered as on x86_64 Linux.
    Signal(u8),
    /// The terminal has a new size.
    Resize(TerminalSize),
}

/// What the caller does, as it happens.
#[derive(Debug)]
pub struct Notices {
    receiver: mpsc::Receiver<Notice>,
    /// The last size that came while nobody could use it.
    size: Option<TerminalSize>,
}

impl Notices {
    /// Signals that end a virtual machine, and not only reach its command: hang-up, interrupt, quit, termination.
    const STOPPING: [u8; 4] = [1, 2, 3, 15];

    /// Takes what `receiver` gives.
    pub fn new(receiver: mpsc::Receiver<Notice>) -> Self {
        Self { receiver, size: None }
    }

    /// Whether `signal` asks to end.
    pub(crate) fn is_stopping(signal: u8) -> bool {
        Self::STOPPING.contains(&signal)
    }

    /// The next notice.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.receiver.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }

    /// Waits for a signal that asks to end.
    pub async fn stopped(&mut self) -> u8 {
        loop {
            match self.next().await {
                Notice::Signal(signal) if Self::is_stopping(signal) => return signal,
                Notice::Signal(_) => {}
                Notice::Resize(size) => self.size = Some(size),
            }
        }
    }

    /// The size that the terminal got while [`stopped`](Self::stopped) waited.
    pub(crate) fn last_size(&self) -> Option<TerminalSize> {
        self.size
    }
}

/// A stream of the caller failed.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct StreamError {
    action: &'static str,
    #[source]
    source: io::Error,
}

/// Sends what can be read from `source` to the guest, until either has enough.
pub(crate) async fn feed(source: Arc<OwnedFd>, mut input: Input) -> Result<(), StreamError> {
    loop {
        let source = source.clone();
        let bytes = blocking(move || read(&source)).await;
        let bytes = bytes.map_err(|source| StreamError { action: "read standard input", source })?;
        if bytes.is_empty() {
            input.end();
            return Ok(());
        }
        if input.write_all(&bytes).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes what comes from the guest to `sink`. A sink that nobody reads any more just ends the stream.
pub(crate) async fn deliver(mut output: Output, sink: Arc<OwnedFd>, action: &'static str) -> Result<(), StreamError> {
    while let Some(bytes) = output.next().await {
        let length = bytes.len();
        let sink = sink.clone();
        match blocking(move || write(&sink, &bytes)).await {
            Ok(()) => output.passed_on(length),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(source) => return Err(StreamError { action, source }),
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn read(source: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK_BYTES];
    loop {
        match rustix::io::read(source, &mut bytes) {
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(errno) => wait_if_temporary(source, errno, PollFlags::IN)?,
        }
    }
}

fn write(sink: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(sink, bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(errno) => wait_if_temporary(sink, errno, PollFlags::OUT)?,
        }
    }
    Ok(())
}

fn wait_if_temporary(descriptor: &OwnedFd, errno: Errno, flags: PollFlags) -> io::Result<()> {
    match errno {
        Errno::INTR => Ok(()),
        Errno::AGAIN => match poll(&mut [PollFd::from_borrowed_fd(descriptor.as_fd(), flags)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        },
        other => Err(other.into()),
    }
}
