//! Consoles: a connection that becomes one, and what one keeps.
//!
//! A console is a sequence of bytes, of which the last are kept; a cursor says how many there were before a place. Whoever
//! reads gets all of them from its cursor on, without a gap. One that is so slow that the next byte is not kept any more is cut
//! off, and sees from the cursor that it gets when it comes back how much it has missed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use stockade_api::{ConsoleAccess, Error, Request, Target, VmReference};
use stockade_jailer::console::{cursor, read_after};
use tokio::net::unix::pipe::Sender;
use tokio::task::yield_now;

use crate::answer::{self, Content, Reply};
use crate::backend::{Attachment, Backend, Console};
use crate::call::Call;
use crate::connection::Connection;
use crate::failure;
use crate::operation::{Output, Parameter, Place, Values};
use crate::relay::{self, BUFFER_BYTES};
use crate::writers::{Claim, Writer};

/// What a connection becomes that is attached to a console.
pub(crate) const PROTOCOL: &str = "stockade-console";
/// The header with the cursor of the first byte.
pub(crate) const CURSOR: &str = "stockade-cursor";
pub(crate) const CURSOR_DESCRIPTION: &str = "How many bytes the guest had written before the first one of these.";

pub(crate) const DESCRIPTION: &str = "\
The connection becomes the console: what the guest writes comes as it is, first what is kept of it, and what is sent is typed. \
Anybody who may can read, one at a time can type. It goes on when the guest resets, and ends with the virtual machine.

`Stockade-Cursor` in the answer says how many bytes the guest had written before the first one that comes. Bytes come without \
a gap, so a client that counts them knows its cursor, and after a connection that broke off it goes on with `after`. One that \
reads too slowly is cut off.";

pub(crate) const LOG_DESCRIPTION: &str = "\
As it is: any bytes. The last 240 KiB at least are kept, also after the virtual machine has stopped, but not of one that is gone. \
With `follow=true` the answer goes on with what is written, until the virtual machine does not run any more.";

const AFTER: &str = "after";
const TAIL: &str = "tail";
const FOLLOW: &str = "follow";
const ACCESS: &str = "access";
const ACCESSES: &[&str] = &["write", "read", "take"];
const FOLLOWS: &[&str] = &["false", "true"];

pub(crate) const AFTER_PARAMETER: Parameter = Parameter {
    name: AFTER,
    place: Place::Query,
    description: "The cursor: only bytes after it, as far as they are kept.",
    values: Values::Numbers { least: 0, most: u64::MAX },
};
pub(crate) const TAIL_PARAMETER: Parameter = Parameter {
    name: TAIL,
    place: Place::Query,
    description: "Only the last so many bytes of what is kept.",
    values: Values::Numbers { least: 0, most: u32::MAX as u64 },
};
pub(crate) const FOLLOW_PARAMETER: Parameter = Parameter {
    name: FOLLOW,
    place: Place::Query,
    description: "Whether to go on with what is written from now on.",
    values: Values::Words(FOLLOWS),
};
pub(crate) const ACCESS_PARAMETER: Parameter = Parameter {
    name: ACCESS,
    place: Place::Query,
    description: "`write`, if it is left out: read and type, unless somebody else types. `read`: only read. `take`: type instead of whoever does now.",
    values: Values::Words(ACCESSES),
};

/// What of a console is wanted.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    after: u64,
    tail: Option<u64>,
}

impl Part {
    fn read(call: &Call) -> Result<Self, Error> {
        let after = call.number(AFTER, 0, u64::MAX)?.unwrap_or_default();
        Ok(Self { after, tail: call.number(TAIL, 0, u32::MAX.into())? })
    }
}

/// A connection is to become a stream.
#[derive(Debug)]
pub(crate) struct Attach {
    request: Request,
    part: Part,
    claim: Claim,
}

impl Attach {
    /// Reads a request for a console.
    pub(crate) fn to_console(call: &Call) -> Result<Self, Error> {
        let access = call.word(ACCESS, ACCESSES)?;
        let claim = if access == Some("take") { Claim::Take } else { Claim::Free };
        let access = if access == Some("read") { ConsoleAccess::Read } else { ConsoleAccess::Write };
        let request = Request::Attach { vm: call.vm()?, target: Target::Console { access } };
        Ok(Self { request, part: Part::read(call)?, claim })
    }

    /// Reads a request for what is no console.
    pub(crate) fn to(request: Request) -> Self {
        Self { request, part: Part::default(), claim: Claim::Free }
    }

    /// Has the connection become what it is to be, after this answer.
    pub(crate) async fn answer<B: Backend>(
        self,
        connection: &Connection<B>,
        call: &Call,
        output: Output,
    ) -> Result<Reply, Error> {
        let Output::Stream(protocol) = output else {
            return Err(failure::internal("this operation is no stream"));
        };
        call.expect_upgrade(protocol)?;
        let (carried, cursor) = match connection.attach(self.request).await? {
            Attachment::Stream(socket) => (Carried::Stream(socket), None),
            Attachment::Console(console) => {
                let wants = console.input.as_ref().map(|_| connection.writers().claim(console.vm, self.claim));
                let writer = wants.transpose()?;
                let reader = Reader::new(console, self.part)?;
                let cursor = reader.after;
                (Carried::Console(reader, writer), Some(cursor))
            }
        };
        connection.carry(carried);
        Ok(answer::switching(protocol, cursor))
    }
}

/// What a connection carries that is no HTTP any more.
pub(crate) enum Carried {
    Console(Reader, Option<Writer>),
    Stream(std::os::fd::OwnedFd),
}

impl Carried {
    /// Carries bytes until it is over. `early` is what the client has sent already.
    pub(crate) async fn serve<B: Backend>(self, connection: &Connection<B>, early: &[u8]) {
        let ended = match self {
            Self::Stream(socket) => relay::relay(connection.stream(), early, socket).await,
            Self::Console(reader, writer) => serve_console(connection, early, reader, writer).await,
        };
        if let Err(error) = ended {
            log::debug!("a stream breaks off: {error}");
        }
    }
}

async fn serve_console<B: Backend>(
    connection: &Connection<B>,
    early: &[u8],
    mut reader: Reader,
    writer: Option<Writer>,
) -> io::Result<()> {
    let client = connection.stream();
    let input = reader.console.input.take();
    let over = connection.end_of(reader.console.vm);
    let shown = async {
        let mut over = std::pin::pin!(over);
        let mut is_over = false;
        loop {
            match reader.read()? {
                None => return Ok(()),
                Some(bytes) if !bytes.is_empty() => relay::send(client, &bytes).await?,
                Some(_) if is_over => return Ok(()),
                Some(_) => tokio::select! {
                    () = reader.console.written.notified() => {}
                    () = over.as_mut() => is_over = true,
                },
            }
            yield_now().await;
        }
    };
    let typed = async {
        if let (Some(input), Some(writer)) = (input, writer) {
            let input = Sender::from_owned_fd_unchecked(input)?;
            tokio::select! {
                // Who has typed everything may still read.
                ended = relay::pump(client, early, &input) => ended?,
                () = writer.dismissed() => return Ok(()),
            }
        }
        std::future::pending::<io::Result<()>>().await
    };
    tokio::select! {
        ended = shown => ended,
        ended = typed => ended,
        () = relay::hung_up(client) => Ok(()),
    }
}

/// What of a console is to be shown.
#[derive(Debug)]
pub(crate) struct Log {
    vm: VmReference,
    part: Part,
    follow: bool,
}

impl Log {
    pub(crate) fn read(call: &Call) -> Result<Self, Error> {
        let follow = call.word(FOLLOW, FOLLOWS)? == Some("true");
        Ok(Self { vm: call.vm()?, part: Part::read(call)?, follow })
    }

    pub(crate) async fn answer<B: Backend>(self, connection: Rc<Connection<B>>) -> Result<Reply, Error> {
        let target = Target::Console { access: ConsoleAccess::Read };
        let Attachment::Console(console) = connection.attach(Request::Attach { vm: self.vm, target }).await? else {
            return Err(failure::internal("the daemon attached to something else than a console"));
        };
        let vm = console.vm;
        let mut reader = Reader::new(console, self.part)?;
        let cursor = reader.after;
        let content = if self.follow {
            let over: Over = Box::pin(async move { connection.end_of(vm).await });
            Content::Log(Rest { next: Some(Box::pin(step(reader, Some(over)))) })
        } else {
            let mut all = Vec::new();
            let end = reader.end()?;
            while let Some(bytes) = reader.read().map_err(|error| unreadable(&error))?.filter(|bytes| !bytes.is_empty())
            {
                all.extend_from_slice(&bytes);
                if reader.after >= end {
                    break;
                }
            }
            Content::Whole(Some(all.into()))
        };
        Ok(answer::log(cursor, content))
    }
}

type Over = Pin<Box<dyn Future<Output = ()>>>;
type Step = Pin<Box<dyn Future<Output = Option<(Bytes, Reader, Option<Over>)>>>>;

/// Waits for the next bytes. `over` is not there any more if it was ready.
async fn step(mut reader: Reader, mut over: Option<Over>) -> Option<(Bytes, Reader, Option<Over>)> {
    loop {
        let bytes = reader.read().ok()??;
        if !bytes.is_empty() {
            return Some((bytes.into(), reader, over));
        }
        let waiting = over.as_mut()?;
        let is_over = tokio::select! {
            () = reader.console.written.notified() => false,
            () = waiting.as_mut() => true,
        };
        if is_over {
            over = None;
        }
    }
}

/// The bytes of a console, as they come.
pub(crate) struct Rest {
    next: Option<Step>,
}

impl Rest {
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(step_now) = &mut self.next else { return Poll::Ready(None) };
        let (bytes, next) = match ready!(step_now.as_mut().poll(context)) {
            Some((bytes, reader, over)) => (Some(bytes), Some(Box::pin(step(reader, over)) as Step)),
            None => (None, None),
        };
        self.next = next;
        Poll::Ready(bytes)
    }
}

/// Reads a console from a place on.
#[derive(Debug)]
pub(crate) struct Reader {
    console: Console,
    /// The cursor of the next byte.
    after: u64,
}

impl Reader {
    fn new(console: Console, part: Part) -> Result<Self, Error> {
        let first = read_after(&console.ring, console.ring_bytes, part.after, 0).map_err(|error| unreadable(&error))?;
        let end = cursor(&console.ring).map_err(|error| unreadable(&error))?;
        let after = part.tail.map_or(first.next, |tail| first.next.max(end.saturating_sub(tail)));
        Ok(Self { console, after })
    }

    /// How many bytes there are now.
    fn end(&self) -> Result<u64, Error> {
        cursor(&self.console.ring).map_err(|error| unreadable(&error))
    }

    /// The next bytes that are there; nothing if they are not kept any more.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let piece = read_after(&self.console.ring, self.console.ring_bytes, self.after, BUFFER_BYTES)?;
        if piece.first() != self.after {
            return Ok(None);
        }
        self.after = piece.next;
        Ok(Some(piece.bytes))
    }
}

fn unreadable(error: &io::Error) -> Error {
    failure::internal(format!("read a console: {error}"))
}
