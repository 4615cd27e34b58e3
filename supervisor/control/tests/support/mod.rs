//! A server in a thread, and clients that write bytes.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use stockade_control::Limits;
use stockade_control::fake::{Server, Settings};
use tempfile::TempDir;

/// A fake daemon behind a real server.
pub struct Daemon {
    pub socket: PathBuf,
    _server: Server,
    _folder: TempDir,
}

/// Short waits, so that tests of their end don't take long.
pub fn short() -> Limits {
    Limits {
        head_time: Duration::from_millis(300),
        body_time: Duration::from_millis(300),
        write_time: Duration::from_millis(300),
        events_time: Duration::from_millis(100),
        ..Limits::default()
    }
}

impl Daemon {
    pub fn new() -> Self {
        Self::with(Settings { configured: vec![("web".into(), 0), ("db".into(), 1000)], ..Settings::default() })
    }

    pub fn with(settings: Settings) -> Self {
        Self::limited(settings, Limits { events_time: Duration::from_millis(100), ..Limits::default() })
    }

    pub fn limited(settings: Settings, limits: Limits) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("control.sock");
        let server = Server::start(&socket, settings, limits).unwrap();
        Self { socket, _server: server, _folder: folder }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        // A server that does not answer fails the test instead of holding it up.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Everything that comes back for `bytes` until the server closes the connection.
    pub fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // A server that has heard enough closes the connection before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// One request over a connection of its own.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}{length}\r\n");
        Reply::parse(&self.exchange(format!("{head}{body}").as_bytes()))
    }

    /// One request, and the answer's head with what came along; the connection may go on. A body is the end of `headers`.
    pub fn head_of(&self, method: &str, path: &str, headers: &str) -> Reply {
        let mut stream = self.connect();
        let end = if headers.contains("\r\n\r\n") { "" } else { "\r\n" };
        stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{end}").as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let count = stream.read(&mut answer).unwrap();
        let (reply, _) = Reply::parse_first(&answer[..count]);
        reply
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, "Content-Type: application/json\r\n", body)
    }
}

/// One answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// Reads one answer that is all of `bytes`.
    pub fn parse(bytes: &[u8]) -> Self {
        let (reply, rest) = Self::parse_first(bytes);
        assert!(rest.is_empty(), "more than an answer: {}", String::from_utf8_lossy(rest));
        reply
    }

    pub fn parse_first(bytes: &[u8]) -> (Self, &[u8]) {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut headers);
        let status = parsed.parse(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)));
        let httparse::Status::Complete(length) = status else {
            panic!("not whole: {:?}", String::from_utf8_lossy(bytes))
        };
        let status = parsed.code.unwrap();
        let headers: Vec<_> = parsed
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
            .collect();
        let (_, rest) = bytes.split_at(length);
        let body_length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let length = if chunked { rest.len() } else { body_length.map_or(0, Result::unwrap) };
        assert!(rest.len() >= length, "a body that is not whole");
        let (body, rest) = rest.split_at(length);
        (Self { status, headers, body: body.to_vec() }, rest)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON in {self:?}"))
    }

    /// Checks that this is a failure with everything that belongs to one, and returns its message and remedy.
    #[track_caller]
    pub fn expect_failure(&self, code: &str) -> String {
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        let known = stockade_api::ErrorCode::ALL.iter().find(|known| known.name() == code).unwrap();
        assert_eq!(self.status, known.http_status(), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        let (message, remedy) = (body["message"].as_str().unwrap(), body["remedy"].as_str().unwrap());
        assert!(!message.is_empty() && !remedy.is_empty(), "{self:?}");
        assert_eq!(body.as_object().unwrap().len(), 3, "{self:?}");
        format!("{message}; {remedy}")
    }
}
