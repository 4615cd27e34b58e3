//! Copies files and trees between host and guest: tar archives over a channel.

mod staging;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::PipeReader;
use std::path::PathBuf;
use std::time::Duration;

use stockade_guest_archive::{Owners, PackError, pack};
use stockade_guest_protocol::Task;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::request::CopyIn;
use crate::session::{ChannelEnd, ChannelHandle, Session, SessionError};

pub use staging::{Destination, DestinationError};
pub use unpack::{MAX_BYTES, MAX_ENTRIES, UnpackError};

use staging::Worker;

/// A guest that moves no byte for this long has stalled.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Bytes that are moved at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why something could not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The host's side of a copy to the guest.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The host's side of a copy from the guest.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The destination on the host.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The guest said that it failed.
    #[error("{0}")]
    Guest(String),
    /// The guest ended the transfer in a way that makes no sense.
    #[error("the guest's agent ended the transfer early")]
    Unfinished,
    /// No byte moved for too long.
    #[error("the guest moved nothing for {} seconds", STALL_LIMIT.as_secs())]
    Stalled,
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A pipe between this process's threads failed.
    #[error("move the archive")]
    Pipe(#[source] std::io::Error),
}

/// Which copy failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("--{option} {}", copied.display())]
pub struct CopyError {
    option: &'static str,
    copied: PathBuf,
    #[source]
    source: TransferError,
}

/// Copies a file or tree to the guest.
pub async fn copy_in(session: &Session, copy: &CopyIn) -> Result<(), CopyError> {
    let failed = |source| CopyError { option: "copy-in", copied: copy.host.clone(), source };
    send(session, copy).await.map_err(failed)
}

async fn send(session: &Session, copy: &CopyIn) -> Result<(), TransferError> {
    let top = PathBuf::from(copy.guest.file_name().unwrap_or_default());
    let (reader, writer) = std::io::pipe().map_err(TransferError::Pipe)?;
    let source = copy.host.clone();
    let packer = Worker::spawn(move || pack(&source, &top, Owners::Root, writer));
    let mut archive = pipe::Receiver::from_owned_fd(reader.into()).map_err(TransferError::Pipe)?;
    let path = copy.guest.to_string_lossy();
    let ChannelHandle { mut input, mut life, output, error, .. } = session.start(Task::Receive { path: &path })?;

    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = archive.read(&mut chunk).await.map_err(TransferError::Pipe)?;
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
            packer.finish().await??;
            input.end();
            break;
        };
        if timeout(STALL_LIMIT, input.write_all(bytes)).await.map_err(|_| TransferError::Stalled)?.is_err() {
            break;
        }
    }
    let end = timeout(STALL_LIMIT, life.ended()).await.map_err(|_| TransferError::Stalled)??;
    drop((output, error));
    complete(end)
}

/// Copies a file or tree from the guest. The destination has all of it afterwards, or nothing.
pub async fn copy_out(session: &Session, destination: &Destination) -> Result<(), CopyError> {
    let copied = destination.copy().guest.clone();
    receive(session, destination).await.map_err(|source| CopyError { option: "copy-out", copied, source })
}

async fn receive(session: &Session, destination: &Destination) -> Result<(), TransferError> {
    let guest = &destination.copy().guest;
    let path = guest.to_string_lossy();
    let top = guest.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    let staging = destination.stage()?;
    let (reader, writer): (PipeReader, _) = std::io::pipe().map_err(TransferError::Pipe)?;
    let unpacker = Worker::spawn(move || {
        unpack::unpack(reader, &top, staging.path(), staging::CONTENT)?;
        Ok::<_, UnpackError>(staging)
    });
    // Declared after the worker and so dropped before it, which then sees the end of the archive and finishes.
    let mut archive = pipe::Sender::from_owned_fd(writer.into()).map_err(TransferError::Pipe)?;
    let ChannelHandle { input, mut life, mut output, error, .. } = session.start(Task::Send { path: &path })?;

    loop {
        let bytes = timeout(STALL_LIMIT, output.next()).await.map_err(|_| TransferError::Stalled)?;
        let Some(bytes) = bytes else { break };
        if archive.write_all(&bytes).await.is_err() {
            // The unpacker gave up, and knows why.
            drop(archive);
            unpacker.finish().await??;
            return Err(TransferError::Unfinished);
        }
        output.passed_on(bytes.len());
    }
    drop(archive);
    // What the guest says about a failure explains more than what is wrong with a shortened archive.
    let end = timeout(STALL_LIMIT, life.ended()).await.map_err(|_| TransferError::Stalled)??;
    drop((input, error));
    let unpacked = unpacker.finish().await?;
    complete(end)?;
    Ok(destination.publish(unpacked?)?)
}

fn complete(end: ChannelEnd) -> Result<(), TransferError> {
    match end {
        ChannelEnd::Exited(0) => Ok(()),
        ChannelEnd::Failed { reason, .. } => Err(TransferError::Guest(reason)),
        ChannelEnd::Exited(_) | ChannelEnd::Signaled(_) => Err(TransferError::Unfinished),
    }
}
