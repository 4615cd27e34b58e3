//! Requests from a stream of bytes, however it is cut into pieces.
//!
//! ```text
//!         .-- no body: request --.      .-- body complete: request --.
//!         v                      |      v                            |
//!        Head -------------------'     Head --------> Body ----------'
//!        Head --> body above the limit: error --> Skip --> Head
//! ```
//! A body above the limit is skipped, so that the connection stays usable. After any other error the bytes at hand are
//! dropped, because nobody can tell where the next request begins.
//!
//! Kept for a client are at most [`HEAD_MAX_BYTES`], or a body up to the limit, and the piece that was pushed last.

use std::mem::{self, MaybeUninit};

use super::{HttpError, Method, Request};

/// Most bytes in a request line or in a header, with the end of the line.
pub const LINE_MAX_BYTES: usize = 1024;
/// Most bytes in a request line and its headers together.
pub const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Most headers.
pub const HEADERS_MAX: usize = 256;

/// What came out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A whole request.
    Request(Request),
    /// The client waits for `100 Continue` before it sends the body.
    ExpectsContinue,
    /// An error, to be answered. The stream goes on.
    Error(HttpError),
}

/// Reads requests.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// Bytes that were not consumed yet.
    buffer: Vec<u8>,
    /// Bytes at the start of `buffer` that were looked at and are no whole head.
    seen: usize,
    body_max_bytes: usize,
}

#[derive(Debug)]
enum State {
    Head,
    Body { method: Method, path: String, length: usize },
    Skip { bytes: usize },
}

struct Head {
    method: Method,
    path: String,
    body: BodyHeaders,
}

/// What the headers say of the body.
#[derive(Default)]
struct BodyHeaders {
    length: Option<u32>,
    expects_continue: bool,
}

impl Reader {
    /// A reader at the start of a stream, which takes bodies of up to `body_max_bytes`.
    pub const fn new(body_max_bytes: usize) -> Self {
        Self { state: State::Head, buffer: Vec::new(), seen: 0, body_max_bytes }
    }

    /// Takes bytes from the client. [`receive`](Self::receive) is to be called until it has nothing before more is pushed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that is complete.
    pub fn receive(&mut self) -> Option<Received> {
        loop {
            match mem::replace(&mut self.state, State::Head) {
                State::Head => match self.take_head() {
                    Ok(None) => return None,
                    Ok(Some(head)) => {
                        if let Some(received) = self.start_body(head) {
                            return Some(received);
                        }
                    }
                    Err(error) => {
                        self.buffer.clear();
                        self.seen = 0;
                        return Some(Received::Error(error));
                    }
                },
                State::Body { method, path, length } if self.buffer.len() >= length => {
                    let rest = self.buffer.split_off(length);
                    let body = mem::replace(&mut self.buffer, rest);
                    return Some(Received::Request(Request { method, path, body }));
                }
                State::Skip { bytes } if self.buffer.len() >= bytes => {
                    self.buffer.drain(..bytes);
                }
                State::Skip { bytes } => {
                    self.state = State::Skip { bytes: bytes.saturating_sub(self.buffer.len()) };
                    self.buffer.clear();
                    return None;
                }
                waiting @ State::Body { .. } => {
                    self.state = waiting;
                    return None;
                }
            }
        }
    }

    /// Goes on from a head: to its body, or, if there is none to wait for, to the next head.
    fn start_body(&mut self, head: Head) -> Option<Received> {
        let Head { method, path, body } = head;
        let size = body.length.unwrap_or(0);
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length == 0 {
            return Some(Received::Request(Request { method, path, body: Vec::new() }));
        }
        if length > self.body_max_bytes {
            // A client that waits for permission won't send the body after an error.
            if !body.expects_continue {
                self.state = State::Skip { bytes: length };
            }
            return Some(Received::Error(HttpError::PayloadTooLarge { size, limit: self.body_max_bytes }));
        }
        self.state = State::Body { method, path, length };
        body.expects_continue.then_some(Received::ExpectsContinue)
    }

    /// Consumes a head, if it is whole.
    fn take_head(&mut self) -> Result<Option<Head>, HttpError> {
        let fresh = self.buffer.get(self.seen..).unwrap_or_default();
        let line_ended = fresh.contains(&b'\n');
        if !line_ended && self.buffer.len() < LINE_MAX_BYTES {
            self.seen = self.buffer.len();
            return Ok(None);
        }
        // Uninitialised, so that the pages of a stack that few headers need stay untouched.
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(&self.buffer, &mut headers);
        let method = match request.method {
            Some(name) => Some(Method::from_name(name).ok_or(HttpError::Method)?),
            None => None,
        };
        let parsed = parsed.map_err(|error| match error {
            httparse::Error::TooManyHeaders => HttpError::TooManyHeaders { limit: HEADERS_MAX },
            error => HttpError::Syntax(error),
        })?;
        let length = match parsed {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => self.buffer.len(),
        };
        check_lengths(self.buffer.get(..length).unwrap_or_default())?;
        let (httparse::Status::Complete(_), Some(method), Some(target)) = (parsed, method, request.path) else {
            self.seen = self.buffer.len();
            return Ok(None);
        };
        let head = Head { method, path: absolute_path(target).to_owned(), body: BodyHeaders::read(request.headers)? };
        self.buffer.drain(..length);
        self.seen = 0;
        Ok(Some(head))
    }
}

impl BodyHeaders {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let mut body = Self::default();
        for header in headers {
            let value = header.value;
            if header.name.eq_ignore_ascii_case("Content-Length") {
                let length = decimal(value).ok_or(HttpError::ContentLength)?;
                if body.length.replace(length).is_some_and(|other| other != length) {
                    return Err(HttpError::ContentLength);
                }
            } else if header.name.eq_ignore_ascii_case("Expect") {
                body.expects_continue |= value == b"100-continue";
            } else if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
                if !value.eq_ignore_ascii_case(b"identity") {
                    return Err(HttpError::TransferEncoding);
                }
            } else if header.name.eq_ignore_ascii_case("Accept-Encoding") && !accepts_identity(value) {
                return Err(HttpError::AcceptEncoding);
            }
        }
        Ok(body)
    }
}

fn check_lengths(head: &[u8]) -> Result<(), HttpError> {
    if head.len() > HEAD_MAX_BYTES {
        return Err(HttpError::HeadTooLong { limit: HEAD_MAX_BYTES });
    }
    match head.split_inclusive(|&byte| byte == b'\n').any(|line| line.len() > LINE_MAX_BYTES) {
        true => Err(HttpError::LineTooLong { limit: LINE_MAX_BYTES }),
        false => Ok(()),
    }
}

/// The path of a target in origin form, or in absolute form with the scheme `http`.
fn absolute_path(target: &str) -> &str {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|start| rest.get(start..)),
        None => Some(target).filter(|target| target.starts_with('/')),
    };
    path.unwrap_or("")
}

fn decimal(value: &[u8]) -> Option<u32> {
    let text = str::from_utf8(value).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether a value of Accept-Encoding leaves `identity` acceptable (RFC 9110, 12.5.3).
fn accepts_identity(value: &[u8]) -> bool {
    let value = String::from_utf8_lossy(value).to_ascii_lowercase().replace(' ', "");
    let refused = |coding: &str| {
        let weight =
            |weight: &str| weight.starts_with('0') && !weight.bytes().any(|byte| (b'1'..=b'9').contains(&byte));
        value
            .split(',')
            .any(|part| part.strip_prefix(coding).and_then(|rest| rest.strip_prefix(";q=")).is_some_and(weight))
    };
    !refused("identity") && (!refused("*") || value.contains("identity"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(pieces: &[&[u8]]) -> Vec<Received> {
        let mut reader = Reader::new(100);
        let mut received = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(item) = reader.receive() {
                received.push(item);
            }
        }
        received
    }

    fn read(bytes: &[u8]) -> Vec<Received> {
        read_all(&[bytes])
    }

    fn request(method: Method, path: &str, body: &[u8]) -> Received {
        Received::Request(Request { method, path: path.to_owned(), body: body.to_owned() })
    }

    fn errors(bytes: &[u8]) -> Vec<HttpError> {
        let is_error = |received| if let Received::Error(error) = received { Some(error) } else { None };
        read(bytes).into_iter().filter_map(is_error).collect()
    }

    #[test]
    fn requests_follow_each_other_whatever_they_say_of_the_connection() {
        let bytes = b"GET / HTTP/1.1\r\n\r\n\
            PUT /a HTTP/1.0\r\nContent-length:  3 \r\nConnection: close\r\n\r\nabc\
            PATCH http://localhost/b/c?d HTTP/1.1\r\nX: \xff\r\nContent-Length: 0\r\n\r\n\
            DELETE * HTTP/1.1\r\n\r\nGET";
        let expected = [
            request(Method::Get, "/", b""),
            request(Method::Put, "/a", b"abc"),
            request(Method::Patch, "/b/c?d", b""),
            request(Method::Delete, "", b""),
        ];
        assert_eq!(read(bytes), expected);
        for at in 0..bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert_eq!(read_all(&[left, right]), expected, "cut at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read_all(&single), expected);
    }

    #[test]
    fn continue_is_asked_for_before_the_body() {
        let head: &[u8] = b"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(read_all(&[head, b"hi"]), [Received::ExpectsContinue, request(Method::Put, "/a", b"hi")]);
        let none = b"GET /a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(read(none), [request(Method::Get, "/a", b"")]);
        let large: &[u8] = b"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n";
        let error = Received::Error(HttpError::PayloadTooLarge { size: 101, limit: 100 });
        assert_eq!(read_all(&[large, b"GET / HTTP/1.1\r\n\r\n"]), [error, request(Method::Get, "/", b"")]);
    }

    #[test]
    fn a_body_above_the_limit_is_skipped() {
        let mut bytes = b"PUT /a HTTP/1.1\r\nContent-Length: 101\r\n\r\n".to_vec();
        bytes.extend_from_slice(&[b'x'; 101]);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        let expected =
            [Received::Error(HttpError::PayloadTooLarge { size: 101, limit: 100 }), request(Method::Get, "/", b"")];
        for at in 0..bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert_eq!(read_all(&[left, right]), expected, "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_request_is_an_error_at_once() {
        let cases: [(&[u8], HttpError); 9] = [
            (b"POST / HTTP/1.1\r\n", HttpError::Method),
            (b"get / HTTP/1.1\r\n", HttpError::Method),
            (b"GET / HTTP/2.0\r\n", HttpError::Syntax(httparse::Error::Version)),
            (b"GET / HTTP/1.1\r\nno colon\r\n", HttpError::Syntax(httparse::Error::HeaderName)),
            (b"PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", HttpError::ContentLength),
            (b"PUT / HTTP/1.1\r\nContent-Length: 4294967296\r\n\r\n", HttpError::ContentLength),
            (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", HttpError::ContentLength),
            (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::TransferEncoding),
            (b"GET / HTTP/1.1\r\nAccept-Encoding: gzip, identity;q=0\r\n\r\n", HttpError::AcceptEncoding),
        ];
        for (bytes, error) in cases {
            assert_eq!(errors(bytes), [error], "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn lines_and_heads_are_bounded() {
        let line = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(length - 16)).into_bytes();
        assert_eq!(errors(&line(LINE_MAX_BYTES)), []);
        assert_eq!(errors(&line(LINE_MAX_BYTES + 1)), [HttpError::LineTooLong { limit: LINE_MAX_BYTES }]);
        assert_eq!(errors(&[b'A'; LINE_MAX_BYTES + 1]), [HttpError::LineTooLong { limit: LINE_MAX_BYTES }]);
        let header = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(LINE_MAX_BYTES));
        assert_eq!(errors(header.as_bytes()), [HttpError::LineTooLong { limit: LINE_MAX_BYTES }]);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(errors(many.as_bytes()), [HttpError::TooManyHeaders { limit: HEADERS_MAX }]);
        let long = format!("GET / HTTP/1.1\r\n{}", format!("A: {}\r\n", "b".repeat(1000)).repeat(17));
        assert_eq!(errors(long.as_bytes()), [HttpError::HeadTooLong { limit: HEAD_MAX_BYTES }]);
    }

    #[test]
    fn identity_is_acceptable_unless_it_is_refused() {
        for (value, accepted) in [
            ("gzip", true),
            ("", true),
            ("identity;q=0.5", true),
            ("identity; q=0", false),
            ("*;q=0.000", false),
            ("identity, *;q=0", true),
        ] {
            assert_eq!(accepts_identity(value.as_bytes()), accepted, "{value}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_survived_and_bounded(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..60)) {
            let mut reader = Reader::new(100);
            for piece in &pieces {
                reader.push(piece);
                while reader.receive().is_some() {}
                prop_assert!(reader.buffer.len() <= HEAD_MAX_BYTES);
            }
        }

        #[test]
        fn cuts_do_not_matter(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            for (number, body) in bodies.iter().enumerate() {
                bytes.extend_from_slice(format!("PUT /{number} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut start = 0;
            for cut in cuts {
                pieces.push(&bytes[start..cut]);
                start = cut;
            }
            pieces.push(&bytes[start..]);
            let expected: Vec<_> =
                bodies.iter().enumerate().map(|(number, body)| request(Method::Put, &format!("/{number}"), body)).collect();
            prop_assert_eq!(read_all(&pieces), expected);
        }
    }
}
