//! The parent, as handlers of requests see it: something to ask. And the other way round: clients that it hands over.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;

use stockade_api::{Answer, Attached, ConsoleAccess, Error, ErrorCode, Request};
use stockade_control::{Attachment, Backend, Console, Limits, Server};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::agent;
use super::consoles::Consoles;
use crate::roles::channel::Channel;
use crate::roles::frame::{Connection, FrameError, RequestNumber, ToControl, ToParent, encode};

/// Messages to the parent that may wait.
const QUEUE: usize = 64;

type Waiting = HashMap<(Connection, RequestNumber), oneshot::Sender<Reply>>;
/// What came of a request, with the descriptors that come with it.
type Reply = (Result<Answer, Error>, Vec<OwnedFd>);

/// The parent.
#[derive(Debug, Clone)]
struct Link {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: RefCell<Waiting>,
    last_request: Cell<RequestNumber>,
    queue: mpsc::Sender<ToParent>,
    /// For what must not wait: that something is over.
    ends: mpsc::UnboundedSender<ToParent>,
    consoles: Rc<Consoles>,
}

/// Takes a request back whose client does not wait any more.
struct Guard<'a> {
    link: &'a Link,
    place: (Connection, RequestNumber),
}

impl Backend for Link {
    type Caller = Connection;

    async fn ask(&self, connection: &Connection, body: Request) -> Result<Answer, Error> {
        self.exchange(*connection, body).await.map(|(answer, _)| answer)
    }

    async fn attach(&self, connection: &Connection, request: Request) -> Result<Attachment, Error> {
        let (answer, descriptors) = self.exchange(*connection, request).await?;
        let mut descriptors = descriptors.into_iter();
        match (answer, descriptors.next(), descriptors.next()) {
            (Answer::Attached(Attached::Console { vm, ring_bytes, watch, access }), Some(ring), input) => {
                let input = input.filter(|_| access == ConsoleAccess::Write);
                let written = self.shared.consoles.hear_of(watch);
                Ok(Attachment::Console(Console { vm, ring: ring.into(), ring_bytes, input, written }))
            }
            (Answer::Attached(Attached::Agent { expected }), Some(socket), None) => agent::call(socket, expected).await,
            (Answer::Attached(Attached::Stream), Some(socket), None) => Ok(Attachment::Stream(socket)),
            (answer, ..) => {
                log::error!("the parent attached a client to nothing: {answer:?}");
                Err(Error::new(ErrorCode::Internal, "the daemon attached to nothing", "look at the daemon's log"))
            }
        }
    }
}

impl Link {
    /// Asks the parent.
    async fn exchange(&self, connection: Connection, body: Request) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let request = self.shared.last_request.get();
        self.shared.last_request.set(request.wrapping_add(1));
        let gone = || Error::new(ErrorCode::Interrupted, "the daemon is going down", "try again in a while");
        let message = ToParent::Request { connection, request, body };
        if encode(&message) == Err(FrameError::TooLong) {
            return Err(Error::new(ErrorCode::InvalidRequest, "the request is too long", "say less"));
        }
        let (sender, receiver) = oneshot::channel();
        let place = (connection, request);
        self.shared.waiting.borrow_mut().insert(place, sender);
        let _guard = Guard { link: self, place };
        self.shared.queue.send(message).await.map_err(|_| gone())?;
        let (answer, descriptors) = receiver.await.map_err(|_| gone())?;
        Ok((answer?, descriptors))
    }

    /// A client has left.
    fn closed(&self, connection: Connection) {
        let _ = self.shared.ends.send(ToParent::Closed { connection });
    }

    fn answered(&self, place: (Connection, RequestNumber)) -> Option<oneshot::Sender<Reply>> {
        self.shared.waiting.borrow_mut().remove(&place)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let (connection, request) = self.place;
        if self.link.answered(self.place).is_some() {
            let _ = self.link.shared.ends.send(ToParent::Abandoned { connection, request });
        }
    }
}

/// Serves the clients that the parent hands over, until it is gone.
pub(super) async fn serve(channel: Channel<ToParent, ToControl>) -> Result<(), String> {
    channel.send(&ToParent::Ready, &[]).await.map_err(|error| error.to_string())?;
    let consoles = match channel.receive().await.map_err(|error| error.to_string())? {
        (ToControl::Consoles, descriptors) => descriptors.into_iter().next().map(Consoles::new),
        _ => None,
    };
    let consoles = consoles.ok_or("the parent says nothing of consoles")?;
    let consoles = Rc::new(consoles.map_err(|error| format!("hear of consoles: {error}"))?);
    let (queue, mut requests) = mpsc::channel(QUEUE);
    let (ends, mut ended) = mpsc::unbounded_channel();
    let shared =
        Shared { waiting: RefCell::default(), last_request: Cell::default(), queue, ends, consoles: consoles.clone() };
    let link = Link { shared: Rc::new(shared) };
    let server = Server::new(link.clone(), Limits::default()).map_err(|error| format!("describe the API: {error}"))?;
    let server = Rc::new(server);
    let hear = async {
        loop {
            let (message, descriptors) = channel.receive().await.map_err(|error| error.to_string())?;
            hear(&link, &server, message, descriptors);
        }
    };
    let say = async {
        loop {
            let message = tokio::select! {
                // A request is never overtaken by its end.
                biased;
                Some(message) = requests.recv() => message,
                Some(message) = ended.recv() => message,
            };
            channel.send(&message, &[]).await.map_err(|error| error.to_string())?;
        }
    };
    tokio::select! {
        ended = hear => ended,
        ended = say => ended,
        error = consoles.listen() => Err(format!("hear of consoles: {error}")),
    }
}

fn hear(link: &Link, server: &Rc<Server<Link>>, message: ToControl, descriptors: Vec<OwnedFd>) {
    match message {
        ToControl::Connection { connection } => {
            // Frames are checked for their descriptors.
            let Some(socket) = descriptors.into_iter().next() else { return };
            let (link, server) = (link.clone(), Rc::clone(server));
            tokio::task::spawn_local(async move {
                match client(socket) {
                    Ok(stream) => server.converse(stream, connection).await,
                    Err(error) => log::warn!("connection {connection}: {error}"),
                }
                link.closed(connection);
            });
        }
        // Said once, before everything else.
        ToControl::Consoles => {}
        ToControl::Answer { connection, request, answer } => {
            if let Some(waiting) = link.answered((connection, request)) {
                // One that does not wait any more is no loss.
                let _ = waiting.send((answer, descriptors));
            }
        }
    }
}

pub(super) fn client(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
