//! Requests of clients, each on a connection of its own, and what becomes of them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use stockade_tests::PATIENCE;

use crate::daemon::{Answer, answer, http};

/// A request that was sent.
#[derive(Debug)]
pub struct Pending {
    pub what: String,
    stream: UnixStream,
    received: Vec<u8>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Nobody listened.
    NotAsked,
    /// The connection broke off before anything was said.
    Lost,
    Answered(Answer),
}

impl Outcome {
    /// The code of a failure, or the status of a success.
    pub fn word(&self) -> String {
        match self {
            Self::NotAsked => "not asked".to_owned(),
            Self::Lost => "lost".to_owned(),
            Self::Answered(Answer { status, body }) => {
                body["code"].as_str().map_or_else(|| status.to_string(), str::to_owned)
            }
        }
    }

    /// Whether the daemon said what comes of it.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Answered(_)) && self.word() != "interrupted"
    }
}

impl Pending {
    /// Sends it; nothing if nobody listens.
    pub fn send(socket: &Path, method: &str, path: &str, body: Option<Value>) -> Option<Self> {
        let what = format!("{method} {path} {}", body.as_ref().map(Value::to_string).unwrap_or_default());
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A daemon that has died meanwhile is noticed when the answer is read.
        let _ = stream.write_all(http(method, path, body).as_bytes());
        Some(Self { what, stream, received: Vec::new() })
    }

    /// Whether the answer is there, or the connection is at its end.
    pub fn is_over(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let over = loop {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        self.stream.set_nonblocking(false).unwrap();
        over
    }

    /// Waits for its answer, of which there is one at most, and not a part.
    pub fn outcome(mut self) -> Outcome {
        match self.stream.read_to_end(&mut self.received) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("{}: waited in vain for an answer", self.what)
            }
            // A connection that is reset has said what it said.
            Ok(_) | Err(_) => {}
        }
        if self.received.is_empty() {
            return Outcome::Lost;
        }
        let text = String::from_utf8_lossy(&self.received);
        let head = text.split_once("\r\n\r\n").map(|(head, _)| head.to_ascii_lowercase()).unwrap_or_default();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let body = text.len().saturating_sub(head.len() + 4);
        assert_eq!(length.unwrap_or(0), body, "{}: one whole answer, and not {text:?}", self.what);
        Outcome::Answered(answer(&text).unwrap_or_else(|| panic!("{}: no answer: {text:?}", self.what)))
    }
}
