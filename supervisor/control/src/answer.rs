//! What is sent back.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, UPGRADE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use stockade_api::body::{Ended, Switches, VmPage};
use stockade_api::{Answer, Error, ErrorCode, VERSION, VmSummary};

use crate::console::{CURSOR, Rest};
use crate::events::Stream;
use crate::failure;
use crate::operation::Output;

/// The body of an answer.
pub(crate) enum Content {
    /// All of it, or nothing any more.
    Whole(Option<Bytes>),
    /// Events, as they happen.
    Events(Stream),
    /// What is written to a console, as it is.
    Log(Rest),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Log(rest) => rest.poll_next(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(stream) => stream.poll_next(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Events(_) | Self::Log(_) => SizeHint::default(),
        }
    }
}

/// An answer of HTTP.
pub(crate) type Reply = Response<Content>;

fn reply(status: StatusCode, content: Content, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Reply {
    let mut reply = Response::new(content);
    *reply.status_mut() = status;
    reply.headers_mut().extend(headers);
    reply
}

/// A body that has been encoded.
pub(crate) fn content(status: StatusCode, media_type: &'static str, content: Content) -> Reply {
    reply(status, content, [(CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

/// A body of JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(bytes) => content(status, "application/json", Content::Whole(Some(bytes.into()))),
        Err(error) => failure(&failure::internal(format!("encode an answer: {error}"))),
    }
}

/// A failure. What may leave a request half-read ends the connection.
pub(crate) fn failure(error: &Error) -> Reply {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(error).unwrap_or_default();
    let mut reply = content(status, "application/json", Content::Whole(Some(body.into())));
    if matches!(error.code, ErrorCode::BodyTooLarge | ErrorCode::RequestTimeout) {
        close(&mut reply);
    }
    reply
}

/// A method that the path does not have.
pub(crate) fn method_not_allowed(method: &str, path: &str, allowed: &[&str]) -> Reply {
    let allowed = allowed.join(", ");
    let mut reply = failure(&failure::method_not_allowed(method, path, &allowed));
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        reply.headers_mut().insert(ALLOW, allowed);
    }
    reply
}

/// Has the connection end after this answer.
pub(crate) fn close(reply: &mut Reply) {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// The backend's answer to what an operation with this output asked for.
pub(crate) fn success(output: Output, answer: Answer) -> Reply {
    match (output, answer) {
        (Output::Created(_), Answer::Vm(vm)) => created(&vm),
        (Output::Done, Answer::Done) => reply(StatusCode::NO_CONTENT, Content::Whole(None), []),
        (Output::Found(_), Answer::Version(version)) => json(StatusCode::OK, &version),
        (Output::Found(_), Answer::List { vms, more }) => json(StatusCode::OK, &VmPage { vms, more }),
        (Output::Found(_), Answer::Vm(vm)) => json(StatusCode::OK, &vm),
        (Output::Found(_), Answer::Switches(switches)) => json(StatusCode::OK, &Switches { switches }),
        (Output::Found(_), Answer::Exit(exit)) => json(StatusCode::OK, &Ended { exit }),
        (_, answer) => {
            log::error!("the backend answered something else than what was asked for: {answer:?}");
            failure(&failure::internal("the daemon answered something else than what was asked for"))
        }
    }
}

/// The connection is a stream in `protocol` from now on, which begins at this place of a console if it is one.
pub(crate) fn switching(protocol: &'static str, cursor: Option<u64>) -> Reply {
    let headers = [(CONNECTION, HeaderValue::from_static("upgrade")), (UPGRADE, HeaderValue::from_static(protocol))];
    let mut reply = reply(StatusCode::SWITCHING_PROTOCOLS, Content::Whole(None), headers);
    reply.headers_mut().extend(cursor.map(|cursor| (HeaderName::from_static(CURSOR), HeaderValue::from(cursor))));
    reply
}

/// What a console keeps from this place on.
pub(crate) fn log(cursor: u64, bytes: Content) -> Reply {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(CURSOR), HeaderValue::from(cursor)),
    ];
    reply(StatusCode::OK, bytes, headers)
}

fn created(vm: &VmSummary) -> Reply {
    let mut reply = json(StatusCode::CREATED, vm);
    if let Ok(location) = HeaderValue::from_str(&format!("/{VERSION}/vms/{}", vm.id)) {
        reply.headers_mut().insert(LOCATION, location);
    }
    reply
}
