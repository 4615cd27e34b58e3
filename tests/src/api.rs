//! A client of the per-VM API that shows every byte: requests are written as the test gives them, responses are parsed strictly.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::PATIENCE;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Read but not yet part of a response.
    pending: Vec<u8>,
}

/// A response, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Status line and headers as they came, with the empty line.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Connection {
    /// Connects to the socket.
    pub fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// Sends a request and reads its response. The body gets a `Content-Length` if it isn't empty.
    pub fn request(&mut self, method: &str, target: &str, body: &str) -> Response {
        self.send(request(method, target, body));
        self.response()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("send to the API socket");
    }

    /// Sends bytes as they are; tells if the other side no longer takes them.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends this side of the connection.
    pub fn shut_down(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    }

    /// Reads one response; a 204 or 100 has no body, any other as much as it says.
    pub fn response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "the connection ended in the head: {:?}", String::from_utf8_lossy(&self.pending));
        };
        let head = String::from_utf8(self.pending.drain(..end).collect()).expect("the head is text");
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {head:?}"));
        let length =
            header(&head, "Content-Length").map_or(0, |value| value.parse().expect("Content-Length is a number"));
        while self.pending.len() < length {
            assert!(self.fill(), "the connection ended in the body");
        }
        let body = String::from_utf8(self.pending.drain(..length).collect()).expect("the body is text");
        Response { status, head, body }
    }

    /// Whether the other side has closed the connection, with nothing unread.
    pub fn is_closed(&mut self) -> bool {
        self.pending.is_empty() && !self.fill()
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => {
                panic!("read from the API socket: {error}; so far: {:?}", String::from_utf8_lossy(&self.pending))
            }
        }
    }
}

impl Response {
    /// The value of a header; its name is compared exactly.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {:?}", self.body))
    }

    /// The text of `{"fault_message": TEXT}`, which is all that an error's body may have.
    pub fn fault_message(&self) -> String {
        let json = self.json();
        let fields = json.as_object().expect("the body is an object");
        assert_eq!(fields.len(), 1, "{}", self.body);
        fields["fault_message"].as_str().expect("fault_message is text").to_owned()
    }
}

/// The bytes of a request.
pub fn request(method: &str, target: &str, body: &str) -> String {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
    if !body.is_empty() {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request + "\r\n" + body
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
