//! Events: a page of them, or a stream that a client can resume.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderMap};
use serde::Serialize;
use stockade_api::{Answer, Error, EventPage, Request};

use crate::answer::{self, Content, Reply};
use crate::backend::Backend;
use crate::call::{Call, read_number};
use crate::connection::Connection;
use crate::failure;
use crate::operation::{Parameter, Place, Values};

/// Longest wait that a client may ask for, in seconds.
const LONGEST_WAIT: u64 = 60;
/// Its wait, if it says none.
const DEFAULT_WAIT: u64 = 30;
/// How long a stream waits for what can be said at once, so that a cursor which is too old becomes its status.
const FIRST_ANSWER: Duration = Duration::from_millis(100);
/// Before a backend that answered too early is asked again.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) const DESCRIPTION: &str = "\
Without a cursor, the answer comes at once: no events, and the cursor to begin after. Take it, then look at everything \
that interests you, then ask for the events after it, and nothing is missed. With a cursor, the answer comes when there \
is an event after it, or without one when the wait is over.

With `Accept: text/event-stream` (server-sent events) or `Accept: application/jsonl` (a line of JSON for each event) the \
answer is a stream that goes on until one side ends it. It begins after the cursor, or with what happens from now on. \
If something fails later, the last thing in it is the error: an event of the type `error`, or a line.";

const AFTER: &str = "after";
const WAIT: &str = "wait";
const LAST_EVENT_ID: &str = "Last-Event-ID";

pub(crate) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: AFTER,
        place: Place::Query,
        description: "The cursor: only events after it; all that are kept if it is 0.",
        values: Values::Numbers { least: 0, most: u64::MAX },
    },
    Parameter {
        name: WAIT,
        place: Place::Query,
        description: "How many seconds to wait for an event, if there is none yet; 30 if it is left out. Streams don't end with it.",
        values: Values::Numbers { least: 1, most: LONGEST_WAIT },
    },
    Parameter {
        name: LAST_EVENT_ID,
        place: Place::Header,
        description: "The cursor of the last event that the client has seen; counts more than `after`.",
        values: Values::Numbers { least: 0, most: u64::MAX },
    },
];

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Page,
    ServerSentEvents,
    JsonLines,
}

impl Format {
    const SERVER_SENT_EVENTS: &str = "text/event-stream";
    const JSON_LINES: &str = "application/jsonl";

    /// The first format in the client's list that there is, or else a page.
    fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
        let mut kinds =
            values.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default());
        let known = kinds.find_map(|kind| match kind.trim().to_ascii_lowercase().as_str() {
            Self::SERVER_SENT_EVENTS => Some(Self::ServerSentEvents),
            Self::JSON_LINES | "application/x-ndjson" => Some(Self::JsonLines),
            "application/json" | "*/*" => Some(Self::Page),
            _ => None,
        });
        known.unwrap_or(Self::Page)
    }

    fn encode(self, page: &EventPage) -> Bytes {
        let mut text = Vec::new();
        for event in &page.events {
            if self == Self::ServerSentEvents {
                text.extend_from_slice(format!("id: {}\ndata: ", event.cursor).as_bytes());
            }
            self.encode_value(event, &mut text);
        }
        text.into()
    }

    /// The cursor, for a client that has seen no event yet.
    fn encode_start(self, cursor: u64) -> Bytes {
        if self == Self::ServerSentEvents { format!("id: {cursor}\n\n").into() } else { Bytes::new() }
    }

    fn encode_error(self, error: &Error) -> Bytes {
        let mut text = Vec::new();
        if self == Self::ServerSentEvents {
            text.extend_from_slice(b"event: error\ndata: ");
        }
        self.encode_value(error, &mut text);
        text.into()
    }

    fn encode_value(self, value: &impl Serialize, text: &mut Vec<u8>) {
        // Encoding to memory fails for maps whose keys are no strings, and there is none here.
        text.extend_from_slice(&serde_json::to_vec(value).unwrap_or_default());
        text.extend_from_slice(if self == Self::ServerSentEvents { b"\n\n" } else { b"\n" });
    }
}

/// Which events a client wants, and how.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Follow {
    after: Option<u64>,
    wait: Duration,
    format: Format,
}

impl Follow {
    pub(crate) fn read(call: &Call) -> Result<Self, Error> {
        let seen = call.headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let seen = seen.map(|text| read_number("header Last-Event-ID", &text, 0, u64::MAX)).transpose()?;
        let after = call.number(AFTER, 0, u64::MAX)?;
        let wait = call.number(WAIT, 1, LONGEST_WAIT)?.unwrap_or(DEFAULT_WAIT);
        Ok(Self { after: seen.or(after), wait: Duration::from_secs(wait), format: Format::accepted(&call.headers) })
    }

    /// Answers a client.
    pub(crate) async fn answer<B: Backend>(self, connection: Rc<Connection<B>>) -> Result<Reply, Error> {
        let media_type = match self.format {
            Format::Page => return self.answer_with_page(&connection).await,
            Format::ServerSentEvents => Format::SERVER_SENT_EVENTS,
            Format::JsonLines => Format::JSON_LINES,
        };
        let mut first: Step = Box::pin(step(connection, self.format, self.after));
        let stream = match tokio::time::timeout(FIRST_ANSWER, first.as_mut()).await {
            Err(_) => Stream { format: self.format, ready: None, next: Some(first) },
            Ok(Next::More(bytes, next)) => Stream { format: self.format, ready: Some(bytes), next: Some(next) },
            Ok(Next::Failed(error)) => return Err(error),
        };
        Ok(answer::content(StatusCode::OK, media_type, Content::Events(stream)))
    }

    async fn answer_with_page<B: Backend>(self, connection: &Connection<B>) -> Result<Reply, Error> {
        let wait = self.wait.min(connection.limits().events_time);
        let page = match (tokio::time::timeout(wait, ask(connection, self.after)).await, self.after) {
            (Ok(page), _) => page?,
            (Err(_), Some(after)) => EventPage { events: Vec::new(), next: after },
            (Err(_), None) => return Err(failure::internal("the daemon did not say where to begin")),
        };
        Ok(answer::json(StatusCode::OK, &page))
    }
}

async fn ask<B: Backend>(connection: &Connection<B>, after: Option<u64>) -> Result<EventPage, Error> {
    match connection.ask(Request::Events { after }).await? {
        Answer::Events(page) => Ok(page),
        answer => {
            log::error!("the backend answered a request for events with {answer:?}");
            Err(failure::internal("the daemon answered something else than events"))
        }
    }
}

type Step = Pin<Box<dyn Future<Output = Next>>>;

/// What comes next in a stream.
enum Next {
    /// Bytes, and what comes after them.
    More(Bytes, Step),
    Failed(Error),
}

/// Waits for events after the cursor.
async fn step<B: Backend>(connection: Rc<Connection<B>>, format: Format, mut after: Option<u64>) -> Next {
    loop {
        let page = match ask(&connection, after).await {
            Ok(page) => page,
            Err(error) => return Next::Failed(error),
        };
        let bytes = if after.is_none() { format.encode_start(page.next) } else { format.encode(&page) };
        after = Some(page.next);
        if !bytes.is_empty() {
            return Next::More(bytes, Box::pin(step(connection, format, after)));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Events as they are sent, until something fails or the client has gone.
pub(crate) struct Stream {
    format: Format,
    ready: Option<Bytes>,
    next: Option<Step>,
}

impl Stream {
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(bytes) = self.ready.take() {
            return Poll::Ready(Some(bytes));
        }
        let Some(step) = &mut self.next else { return Poll::Ready(None) };
        let (bytes, next) = match ready!(step.as_mut().poll(context)) {
            Next::More(bytes, next) => (bytes, Some(next)),
            Next::Failed(error) => (self.format.encode_error(&error), None),
        };
        self.next = next;
        Poll::Ready(Some(bytes))
    }
}
