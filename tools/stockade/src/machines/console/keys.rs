//! What is typed on standard input, on its way to the guest.

use std::io::{self, IsTerminal, Read};

use stockade_client::console::Typing;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::escape::{Escape, Escapes, HELP};
use super::tell;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 4096;
/// Bytes that wait for a connection; there are no more than these and a piece.
const WAITING_BYTES: usize = 64 << 10;
/// Control and C.
const INTERRUPT: u8 = 3;

/// Standard input.
#[derive(Debug)]
pub struct Keys {
    pieces: mpsc::Receiver<Vec<u8>>,
    /// Not there if nobody types, but a program or a file says what goes to the guest.
    escapes: Option<Escapes>,
    /// What is for the guest and was not sent yet.
    waiting: Vec<u8>,
    ended: bool,
}

/// Standard input is through, or somebody has had enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// By an escape, or since the terminal is gone.
    User,
}

impl Keys {
    /// Reads standard input from now on. To be called within a runtime.
    pub fn of_standard_input() -> Self {
        let (sender, pieces) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let mut input = io::stdin().lock();
            let mut bytes = vec![0; PIECE_BYTES];
            // Whatever can't be read is its end.
            while let Ok(count @ 1..) = input.read(&mut bytes) {
                if sender.blocking_send(bytes.get(..count).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
        });
        let escapes = io::stdin().is_terminal().then_some(Escapes::Beginning);
        Self { pieces, escapes, waiting: Vec::new(), ended: false }
    }

    /// Whether everything was typed.
    pub fn are_over(&self) -> bool {
        self.ended && self.waiting.is_empty()
    }

    /// Types, until somebody wants to leave. Without a connection, what is typed waits for one. Dropping the future loses
    /// nothing.
    pub async fn type_into(&mut self, socket: Option<&UnixStream>, typing: Typing) -> Leave {
        let mut socket = socket.filter(|_| typing != Typing::Never);
        loop {
            if self.are_over()
                && let Some(socket) = socket.take()
            {
                // Somebody else may type now.
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
            }
            let sendable = socket.filter(|_| !self.waiting.is_empty());
            let writable = async {
                match sendable {
                    Some(socket) => socket.writable().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                writable = writable => {
                    let written = sendable.filter(|_| writable).map(|socket| socket.try_write(&self.waiting));
                    match written {
                        Some(Ok(count)) => drop(self.waiting.drain(..count.min(self.waiting.len()))),
                        Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // Who reads the other direction finds out.
                        _ => socket = None,
                    }
                }
                piece = self.pieces.recv(), if !self.ended && self.waiting.len() < WAITING_BYTES => match piece {
                    Some(piece) => if let Some(leave) = self.take(&piece, typing) { return leave },
                    None if self.escapes.is_some() => return Leave::User,
                    None => self.ended = true,
                },
                else => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, piece: &[u8], typing: Typing) -> Option<Leave> {
        let Some(escapes) = &mut self.escapes else {
            self.waiting.extend_from_slice(piece);
            return None;
        };
        let mut keys = piece;
        while let Some((escape, rest)) = escapes.take(keys, &mut self.waiting) {
            match escape {
                Escape::Leave => return Some(Leave::User),
                Escape::Help => HELP.iter().for_each(|line| tell(line)),
            }
            keys = rest;
        }
        if typing == Typing::Never {
            // There is nobody for whom they could be.
            self.waiting.clear();
            return piece.contains(&INTERRUPT).then_some(Leave::User);
        }
        None
    }
}
