//! The parent, as handlers of requests see it: something to ask. And the other way round: clients that it hands over.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;

use stockade_api::{Answer, Error, ErrorCode, Request};
use stockade_control::{Backend, Limits, Server};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::roles::channel::Channel;
use crate::roles::frame::{Connection, FrameError, RequestNumber, ToControl, ToParent, encode};

/// Messages to the parent that may wait.
const QUEUE: usize = 64;

type Waiting = HashMap<(Connection, RequestNumber), oneshot::Sender<Result<Answer, Error>>>;

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
}

/// Takes a request back whose client does not wait any more.
struct Guard<'a> {
    link: &'a Link,
    place: (Connection, RequestNumber),
}

impl Backend for Link {
    type Caller = Connection;

    async fn ask(&self, connection: &Connection, body: Request) -> Result<Answer, Error> {
        let connection = *connection;
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
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Link {
    /// A client has left.
    fn closed(&self, connection: Connection) {
        let _ = self.shared.ends.send(ToParent::Closed { connection });
    }

    fn answered(&self, place: (Connection, RequestNumber)) -> Option<oneshot::Sender<Result<Answer, Error>>> {
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
    channel.send(&ToParent::Ready, None).await.map_err(|error| error.to_string())?;
    let (queue, mut requests) = mpsc::channel(QUEUE);
    let (ends, mut ended) = mpsc::unbounded_channel();
    let shared = Shared { waiting: RefCell::default(), last_request: Cell::default(), queue, ends };
    let link = Link { shared: Rc::new(shared) };
    let server = Server::new(link.clone(), Limits::default()).map_err(|error| format!("describe the API: {error}"))?;
    let server = Rc::new(server);
    let hear = async {
        loop {
            let (message, descriptor) = channel.receive().await.map_err(|error| error.to_string())?;
            hear(&link, &server, message, descriptor);
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
            channel.send(&message, None).await.map_err(|error| error.to_string())?;
        }
    };
    tokio::select! {
        ended = hear => ended,
        ended = say => ended,
    }
}

fn hear(link: &Link, server: &Rc<Server<Link>>, message: ToControl, descriptor: Option<OwnedFd>) {
    match (message, descriptor) {
        (ToControl::Connection { connection }, Some(socket)) => {
            let (link, server) = (link.clone(), Rc::clone(server));
            tokio::task::spawn_local(async move {
                match client(socket) {
                    Ok(stream) => server.converse(stream, connection).await,
                    Err(error) => log::warn!("connection {connection}: {error}"),
                }
                link.closed(connection);
            });
        }
        (ToControl::Answer { connection, request, answer }, None) => {
            if let Some(waiting) = link.answered((connection, request)) {
                // One that does not wait any more is no loss.
                let _ = waiting.send(answer);
            }
        }
        // Frames are checked for their descriptors.
        (ToControl::Connection { .. }, None) | (ToControl::Answer { .. }, Some(_)) => {}
    }
}

fn client(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
