//! Answers, as bytes.

use super::HttpError;

/// The answer to a client that comes when the API has as many connections as it takes. Not like the others: no trailing
/// space in the status line, and the connection is closed.
pub const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503\r\n\
    Server: Firecracker API\r\n\
    Connection: close\r\n\
    Content-Length: 40\r\n\
    \r\n\
    { \"error\": \"Too many open connections\" }";

/// The interim answer to a client that waits before it sends the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";

/// Status codes that the API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200: the body has what was asked for.
    Ok,
    /// 204: done. No body.
    NoContent,
    /// 400: refused; the body says why.
    BadRequest,
}

impl Status {
    /// Its number.
    pub const fn code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::NoContent => 204,
            Self::BadRequest => 400,
        }
    }

    /// Its name, for the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NoContent => "No Content",
            Self::BadRequest => "Bad Request",
        }
    }
}

/// Whether an answer warns of a deprecated field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deprecation {
    /// The request had none.
    None,
    /// The request had one.
    Warned,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: Status,
    /// Whether it has the header `Deprecation: true`.
    pub deprecation: Deprecation,
    /// JSON, or what Firecracker takes for it. Empty for [`Status::NoContent`].
    pub body: Vec<u8>,
}

impl Response {
    /// The answer to bytes that are no request. Between the two sentences is a bare line feed, as in Firecracker's.
    pub fn refusal(error: HttpError) -> Self {
        let body = format!("{{ \"error\": \"{error}\nAll previous unanswered requests will be dropped.\" }}");
        Self { status: Status::BadRequest, deprecation: Deprecation::None, body: body.into_bytes() }
    }

    /// Appends its bytes to `output`: always the same headers in the same order, and no reason phrase.
    pub fn write(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(format!("HTTP/1.1 {} \r\n", self.status.code()).as_bytes());
        output.extend_from_slice(b"Server: Firecracker API\r\nConnection: keep-alive\r\n");
        if self.deprecation == Deprecation::Warned {
            output.extend_from_slice(b"Deprecation: true\r\n");
        }
        if self.status == Status::NoContent {
            output.extend_from_slice(b"\r\n");
            return;
        }
        let length = self.body.len();
        output.extend_from_slice(
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        );
        output.extend_from_slice(&self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response) -> String {
        let mut output = Vec::new();
        response.write(&mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_firecracker() {
        let ok = Response { status: Status::Ok, deprecation: Deprecation::None, body: b"{}".to_vec() };
        assert_eq!(
            text(&ok),
            "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        let done = Response { status: Status::NoContent, deprecation: Deprecation::Warned, body: Vec::new() };
        assert_eq!(
            text(&done),
            "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nDeprecation: true\r\n\r\n"
        );
        let refused = Response::refusal(HttpError::PayloadTooLarge { size: 51201, limit: 51200 });
        let body = "{ \"error\": \"Request payload with size 51201 is larger than the limit of 51200 allowed by server.\n\
                    All previous unanswered requests will be dropped.\" }";
        assert!(text(&refused).ends_with(&format!("Content-Length: {}\r\n\r\n{body}", body.len())));
    }

    #[test]
    fn refusals_need_no_escaping() {
        for error in [
            HttpError::Method,
            HttpError::Syntax(httparse::Error::HeaderName),
            HttpError::ContentLength,
            HttpError::AcceptEncoding,
        ] {
            assert!(!error.to_string().contains(['"', '\\']));
        }
    }
}
