//! What is wrong with a request, in the words that its client reads.

use stockade_api::{Error, ErrorCode, VERSION};

/// Longest part of a client's text that it gets back.
const LONGEST_QUOTE: usize = 80;

/// Where a client finds out what it should have said.
const DOCUMENT: &str = "GET /v1/openapi.json describes every request";

/// `text` in quotes, its control characters escaped, and cut off if it is long.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST_QUOTE).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// A request that is none.
pub(crate) fn invalid(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    let remedy: String = remedy.into();
    Error::new(ErrorCode::InvalidRequest, message, if remedy.is_empty() { DOCUMENT.to_owned() } else { remedy })
}

/// A path that the API does not have.
pub(crate) fn unknown_path(path: &str) -> Error {
    let message = format!("there is no path {}", quoted(path));
    Error::new(ErrorCode::UnknownPath, message, format!("every path begins with /{VERSION}/; {DOCUMENT}"))
}

/// A path that can't be had with this method.
pub(crate) fn method_not_allowed(method: &str, path: &str, allowed: &str) -> Error {
    let message = format!("method {} does not go with path {}", quoted(method), quoted(path));
    Error::new(ErrorCode::MethodNotAllowed, message, format!("use {allowed}"))
}

/// A body beyond the limit.
pub(crate) fn body_too_large(limit: usize) -> Error {
    let message = format!("the body is larger than {limit} bytes");
    Error::new(ErrorCode::BodyTooLarge, message, "send a smaller one")
}

/// A body that is not said to be JSON.
pub(crate) fn unsupported_media_type(header: &str, value: Option<&str>) -> Error {
    let message = match value {
        Some(value) => format!("header {header}: {} can't be read", quoted(value)),
        None => format!("header {header} is missing from a request with a body"),
    };
    let remedy = "send JSON as it is, with \"Content-Type: application/json\", as curl --json does";
    Error::new(ErrorCode::UnsupportedMediaType, message, remedy)
}

/// A request that came too slowly.
pub(crate) fn timeout(part: &str, seconds: u64) -> Error {
    let message = format!("the {part} of the request did not come within {seconds} s");
    Error::new(ErrorCode::RequestTimeout, message, "send a request at once")
}

/// A stream that can't be had in an answer.
pub(crate) fn upgrade_required(protocol: &str) -> Error {
    let message = "this is a stream, which the connection has to become";
    let remedy = format!("send \"Connection: Upgrade\" and \"Upgrade: {protocol}\"");
    Error::new(ErrorCode::UpgradeRequired, message, remedy)
}

/// A console that somebody else types at.
pub(crate) fn console_in_use() -> Error {
    let message = "somebody else types at this console";
    Error::new(ErrorCode::ConsoleInUse, message, "only read it (access=read), or take it over (access=take)")
}

/// A client with too many connections.
pub(crate) fn too_many_connections(whose: &str, limit: usize) -> Error {
    let message = format!("{whose} have {limit} connections already");
    Error::new(ErrorCode::TooManyRequests, message, "close some, or try again later")
}

/// What hyper could not parse.
pub(crate) fn unreadable(error: &hyper::Error, limit: usize) -> Error {
    if error.is_parse_too_large() {
        let message = format!("the request's line and headers are larger than {limit} bytes, or too many");
        return Error::new(ErrorCode::HeadTooLarge, message, "send fewer and shorter headers");
    }
    if error.is_parse_version_h2() {
        return invalid("HTTP/2 is not spoken here", "speak HTTP/1.1, as curl --http1.1 does");
    }
    invalid(format!("the request's line and headers can't be read: {error}"), "speak HTTP/1.1 as in RFC 9112")
}

/// A fault of the server or its backend.
pub(crate) fn internal(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Internal, message, "report it, with what the daemon logged")
}
