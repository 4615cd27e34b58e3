//! A client of the per-VM API: one connection, one request at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, at};

/// How long a vmm may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
}

impl Client {
    /// Connects; `None` as long as nobody listens.
    pub fn connect(socket: &Path) -> Result<Option<Self>, Error> {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).map_err(at("set up", socket))?;
                Ok(Some(Self { stream, socket: socket.to_owned() }))
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(at("connect to", socket)(error)),
        }
    }

    /// Sends a request.
    pub fn send(&mut self, method: &str, target: &str, body: &str) -> Result<(), Error> {
        let length = body.len();
        let request = format!("{method} {target} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes()).map_err(at("write to", &self.socket))
    }

    /// Reads the response, which must be a success.
    pub fn receive(&mut self, request: &str) -> Result<(), Error> {
        let mut response = Vec::new();
        let mut buffer = [0; 4096];
        while !is_complete(&response) {
            let count = self.stream.read(&mut buffer).map_err(at("read from", &self.socket))?;
            if count == 0 {
                return Err(at("read from", &self.socket)(std::io::ErrorKind::UnexpectedEof.into()));
            }
            response.extend(buffer.iter().take(count));
        }
        let response = String::from_utf8_lossy(&response).into_owned();
        let status = response.split(' ').nth(1).unwrap_or_default();
        if matches!(status, "200" | "204") {
            Ok(())
        } else {
            Err(Error::Refused { request: request.to_owned(), response })
        }
    }

    /// Both, with a body of JSON, or `None` for a `GET`.
    pub fn request(&mut self, target: &str, body: Option<&serde_json::Value>) -> Result<(), Error> {
        let method = if body.is_some() { "PUT" } else { "GET" };
        self.send(method, target, &body.map(serde_json::Value::to_string).unwrap_or_default())?;
        self.receive(&format!("{method} {target}"))
    }
}

/// Whether head and body of a response are there.
fn is_complete(response: &[u8]) -> bool {
    let text = String::from_utf8_lossy(response);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
    body.len() >= length.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_where_it_says() {
        assert!(!is_complete(b"HTTP/1.1 204 \r\nServer: x\r\n"));
        assert!(is_complete(b"HTTP/1.1 204 \r\nServer: x\r\n\r\n"));
        assert!(!is_complete(b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nab"));
        assert!(is_complete(b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nabc"));
    }
}
