//! What jailer, warden and vmm write to their standard error: the end of it, in case one of them dies without a word.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::text::printable;

/// Most bytes that are kept.
const MAX_BYTES: usize = 2048;

/// The reading end of that pipe, and what came out of it last.
#[derive(Debug)]
pub(super) struct Diagnostics {
    pipe: Option<pipe::Receiver>,
    bytes: Vec<u8>,
}

impl Diagnostics {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: Some(pipe::Receiver::from_owned_fd(pipe)?), bytes: Vec::new() })
    }

    /// Reads what is there. Pending forever after the end.
    pub(super) async fn advance(&mut self) {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        match pipe.read_buf(&mut self.bytes).await {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(_) => {
                let excess = self.bytes.len().saturating_sub(MAX_BYTES);
                self.bytes.drain(..excess);
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.pipe.is_none()
    }

    /// What was written last, on one line.
    pub(super) fn text(&self) -> String {
        printable(&String::from_utf8_lossy(&self.bytes).trim().replace('\n', "; "))
    }
}
