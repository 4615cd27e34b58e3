//! Transfers: tar archives between the host and the commands' root, each in a thread that is fed through pipes.

#[cfg(test)]
mod tests;
mod unpack;

use std::error::Error;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use stockade_guest_archive::{Owners, pack};

/// A transfer that runs.
#[derive(Debug)]
pub(crate) struct Transfer {
    thread: Option<JoinHandle<Result<(), String>>>,
    /// At its end once the thread is.
    finished: PipeReader,
}

/// A transfer that was just started, and the agent's end of the archive's pipe.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) transfer: Transfer,
    pub(crate) input: Option<OwnedFd>,
    pub(crate) output: Option<OwnedFd>,
}

/// Unpacks an archive so that its single top entry becomes `path`.
pub(crate) fn receive(path: &str) -> io::Result<Started> {
    let (reader, writer) = io::pipe()?;
    let path = PathBuf::from(path);
    let transfer = Transfer::spawn(move || unpack::unpack(reader, &path).map_err(|error| error.to_string()))?;
    Ok(Started { transfer, input: Some(writer.into()), output: None })
}

/// Packs `path` under the name that it ends with.
pub(crate) fn send(path: &str) -> io::Result<Started> {
    let (reader, writer) = io::pipe()?;
    let path = PathBuf::from(path);
    let transfer = Transfer::spawn(move || pack_below_its_name(&path, writer))?;
    Ok(Started { transfer, input: None, output: Some(reader.into()) })
}

fn pack_below_its_name(path: &Path, writer: impl Write) -> Result<(), String> {
    let Some(name) = path.file_name() else {
        return Err(format!("{} in the guest ends with no name; name the file or folder", path.display()));
    };
    pack(path, Path::new(name), Owners::Kept, writer).map_err(|error| match error.source() {
        Some(source) => format!("in the guest, {error}: {source}"),
        None => format!("in the guest, {error}"),
    })
}

impl Transfer {
    fn spawn(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> io::Result<Self> {
        let (finished, end): (_, PipeWriter) = io::pipe()?;
        let work = move || {
            let result = work();
            drop(end);
            result
        };
        let thread = std::thread::Builder::new().name("transfer".to_owned()).spawn(work)?;
        Ok(Self { thread: Some(thread), finished })
    }

    /// Becomes readable when the transfer is over.
    pub(crate) fn finished(&self) -> BorrowedFd<'_> {
        self.finished.as_fd()
    }

    /// How it went, in words if it failed. Waits for its end.
    pub(crate) fn result(&mut self) -> Result<(), String> {
        let joined = self.thread.take().and_then(|thread| thread.join().ok());
        joined.unwrap_or_else(|| Err("the transfer broke off".to_owned()))
    }
}
