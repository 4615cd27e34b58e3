//! A host program's request for a connection, before it is one: `CONNECT <port>\n`, Firecracker's protocol.
//!
//! The keyword counts in any case, words are split at white space, and the line has at most [`MAX_LINE`] bytes with its
//! newline. It may arrive in pieces; what follows it belongs to the connection and is left in the socket. The answer,
//! `OK <host port>\n`, is sent once the guest has accepted; a client that is refused is just closed.

use std::io;

use super::sys::HostSocket;

/// Most bytes of the line, its newline included.
pub const MAX_LINE: usize = 32;

/// A client that has not said everything yet.
#[derive(Debug)]
pub struct Handshake {
    socket: HostSocket,
    line: Vec<u8>,
}

/// What is known after looking at what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The line is not complete.
    Waiting,
    /// The client asks for this port of the guest.
    Connect(u32),
    /// The client said something else, too much, or nothing at all.
    Refused,
}

impl Handshake {
    /// Starts with a client that was just accepted.
    pub fn new(socket: HostSocket) -> Self {
        Self { socket, line: Vec::with_capacity(MAX_LINE) }
    }

    /// Takes what has arrived, up to the newline and no further.
    pub fn advance(&mut self) -> Progress {
        let mut chunk = [0; MAX_LINE];
        let room = MAX_LINE.saturating_sub(self.line.len());
        let Some(window) = chunk.get_mut(..room) else { return Progress::Refused };
        let seen = match self.socket.peek(window) {
            Ok(0) => return Progress::Refused,
            Ok(count) => window.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
            Err(_) => return Progress::Refused,
        };
        let newline = seen.iter().position(|byte| *byte == b'\n');
        let wanted = newline.map_or(seen.len(), |position| position.saturating_add(1));
        let mut taken = [0; MAX_LINE];
        let Some(taken) = taken.get_mut(..wanted) else { return Progress::Refused };
        match self.socket.receive(taken) {
            Ok(count) if count == wanted => self.line.extend_from_slice(taken),
            _ => return Progress::Refused,
        }
        match newline {
            Some(_) => parse(&self.line).map_or(Progress::Refused, Progress::Connect),
            None if self.line.len() < MAX_LINE => Progress::Waiting,
            None => Progress::Refused,
        }
    }

    /// The client's socket.
    pub fn socket(&self) -> &HostSocket {
        &self.socket
    }

    /// Gives up the socket, for the connection or to be closed.
    pub fn into_socket(self) -> HostSocket {
        self.socket
    }
}

/// The port of a complete line. Words after the port are ignored, as Firecracker does.
fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let keyword = words.next()?;
    if keyword.eq_ignore_ascii_case("connect") { words.next()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_as_firecracker_reads_them() {
        for (line, port) in [
            (&b"CONNECT 52\n"[..], Some(52)),
            (b"connect 4294967295\r\n", Some(u32::MAX)),
            (b" Connect\t7 \n", Some(7)),
            (b"CONNECT 4294967296\n", None),
            (b"CONNECT -1\n", None),
            (b"CONNECT\n", None),
            (b"CONNECTED 1\n", None),
            (b"\n", None),
            (b"CONNECT \xff\n", None),
        ] {
            assert_eq!(parse(line), port, "{line:?}");
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_what_follows_stays() {
        let (ours, mut client) = UnixStream::pair().unwrap();
        let mut handshake = Handshake::new(ours.into());
        assert_eq!(handshake.advance(), Progress::Waiting);
        for byte in b"CONNECT 1024" {
            client.write_all(&[*byte]).unwrap();
            assert_eq!(handshake.advance(), Progress::Waiting);
        }
        client.write_all(b"\nrest").unwrap();
        assert_eq!(handshake.advance(), Progress::Connect(1024));
        let mut rest = [0; 8];
        assert_eq!(handshake.into_socket().receive(&mut rest).unwrap(), 4);
        assert_eq!(&rest[..4], b"rest");
    }

    #[test]
    fn a_line_that_is_too_long_or_ends_early_is_refused() {
        let (ours, mut client) = UnixStream::pair().unwrap();
        let mut handshake = Handshake::new(ours.into());
        client.write_all(&[b'C'; MAX_LINE]).unwrap();
        assert_eq!(handshake.advance(), Progress::Refused);

        let (ours, mut client) = UnixStream::pair().unwrap();
        let mut handshake = Handshake::new(ours.into());
        let longest = format!("CONNECT {:>23}\n", 5);
        assert_eq!(longest.len(), MAX_LINE);
        client.write_all(longest.as_bytes()).unwrap();
        assert_eq!(handshake.advance(), Progress::Connect(5));

        let (ours, mut client) = UnixStream::pair().unwrap();
        let mut handshake = Handshake::new(ours.into());
        client.write_all(b"CONNECT 5").unwrap();
        assert_eq!(handshake.advance(), Progress::Waiting);
        drop(client);
        assert_eq!(handshake.advance(), Progress::Refused);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_end_in_a_port_or_a_refusal(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 1..8)) {
            let (ours, mut client) = UnixStream::pair().unwrap();
            let mut handshake = Handshake::new(ours.into());
            let mut whole = Vec::new();
            let mut outcome = Progress::Waiting;
            for piece in &pieces {
                client.write_all(piece).unwrap();
                whole.extend_from_slice(piece);
                outcome = handshake.advance();
                if outcome != Progress::Waiting {
                    break;
                }
            }
            let line = whole.iter().position(|byte| *byte == b'\n').filter(|end| *end < MAX_LINE);
            let expected = match line {
                Some(end) => parse(&whole[..=end]).map_or(Progress::Refused, Progress::Connect),
                None if whole.len() < MAX_LINE => Progress::Waiting,
                None => Progress::Refused,
            };
            prop_assert_eq!(outcome, expected);
        }
    }
}
