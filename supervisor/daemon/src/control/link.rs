//! The parent, as handlers of requests see it: something to ask. And the other way round: clients that it hands over.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stockade_api::{Answer, Error, ErrorCode, Request};
use tokio::sync::{mpsc, oneshot};

use super::http;
use crate::roles::channel::Channel;
use crate::roles::frame::{Connection, FrameError, RequestNumber, ToControl, ToParent, encode};

/// Messages to the parent that may wait.
const QUEUE: usize = 64;

type Waiting = HashMap<(Connection, RequestNumber), oneshot::Sender<Result<Answer, Error>>>;

/// The parent.
#[derive(Debug, Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    last_request: AtomicU64,
    queue: mpsc::Sender<ToParent>,
    /// For what must not wait: that something is over.
    ends: mpsc::UnboundedSender<ToParent>,
}

/// Takes a request back whose client does not wait any more.
struct Guard<'a> {
    link: &'a Link,
    place: (Connection, RequestNumber),
}

impl Link {
    /// Asks for something in the name of a connection's client.
    pub(super) async fn ask(&self, connection: Connection, body: Request) -> Result<Answer, Error> {
        let request = self.shared.last_request.fetch_add(1, Ordering::Relaxed);
        let gone = || Error::new(ErrorCode::Interrupted, "the daemon is going down", "try again in a while");
        let message = ToParent::Request { connection, request, body };
        if encode(&message) == Err(FrameError::TooLong) {
            return Err(Error::new(ErrorCode::InvalidRequest, "the request is too long", "say less"));
        }
        let (sender, receiver) = oneshot::channel();
        let place = (connection, request);
        self.waiting().insert(place, sender);
        let _guard = Guard { link: self, place };
        self.shared.queue.send(message).await.map_err(|_| gone())?;
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has left.
    pub(super) fn closed(&self, connection: Connection) {
        let _ = self.shared.ends.send(ToParent::Closed { connection });
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let (connection, request) = self.place;
        if self.link.waiting().remove(&self.place).is_some() {
            let _ = self.link.shared.ends.send(ToParent::Abandoned { connection, request });
        }
    }
}

/// Serves the clients that the parent hands over, until it is gone.
pub(super) async fn serve(channel: Channel<ToParent, ToControl>) -> Result<(), String> {
    channel.send(&ToParent::Ready, None).await.map_err(|error| error.to_string())?;
    let (queue, mut requests) = mpsc::channel(QUEUE);
    let (ends, mut ended) = mpsc::unbounded_channel();
    let shared = Shared { waiting: Mutex::default(), last_request: AtomicU64::new(0), queue, ends };
    let link = Link { shared: Arc::new(shared) };
    let hear = async {
        loop {
            let (message, descriptor) = channel.receive().await.map_err(|error| error.to_string())?;
            link.hear(message, descriptor);
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

impl Link {
    fn hear(&self, message: ToControl, descriptor: Option<OwnedFd>) {
        match (message, descriptor) {
            (ToControl::Connection { connection }, Some(socket)) => {
                tokio::spawn(http::serve(connection, socket, self.clone()));
            }
            (ToControl::Answer { connection, request, answer }, None) => {
                if let Some(waiting) = self.waiting().remove(&(connection, request)) {
                    // One that does not wait any more is no loss.
                    let _ = waiting.send(answer);
                }
            }
            // Frames are checked for their descriptors.
            (ToControl::Connection { .. }, None) | (ToControl::Answer { .. }, Some(_)) => {}
        }
    }
}
