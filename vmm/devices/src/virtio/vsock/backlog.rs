//! Bytes of the guest that the host has not taken yet.

use std::collections::VecDeque;
use std::io;

use super::credit::BUFFER_SIZE;
use super::packet::Payload;
use super::sys::HostSocket;

/// At most [`BUFFER_SIZE`] bytes, in order. Empty, it holds no memory.
#[derive(Debug, Default)]
pub struct Backlog(VecDeque<u8>);

impl Backlog {
    /// Whether the host has taken everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        (BUFFER_SIZE as usize).saturating_sub(self.0.len())
    }

    /// Appends a copy of `payload`, which fits.
    pub fn push(&mut self, payload: &Payload<'_>) {
        if payload.len() > 0 {
            self.0.reserve_exact(payload.len());
            self.0.extend(payload.to_vec());
        }
    }

    /// Sends as much as `socket` takes, and says how much.
    pub fn flush(&mut self, socket: &HostSocket) -> io::Result<usize> {
        let mut sent: usize = 0;
        loop {
            let (front, _) = self.0.as_slices();
            if front.is_empty() {
                self.clear();
                return Ok(sent);
            }
            match socket.send(front) {
                Ok(count) => {
                    self.0.drain(..count.min(self.0.len()));
                    sent = sent.saturating_add(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
    }

    /// Throws everything away, and says how much that was.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.0).len()
    }
}
