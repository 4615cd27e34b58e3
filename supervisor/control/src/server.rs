//! Serves connections, and accepts them: no more of them than the limits allow.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use rustix::io::Errno;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinSet, LocalSet};

use crate::backend::{Backend, Reception};
use crate::connection::Connection;
use crate::document;
use crate::failure;
use crate::limits::Limits;
use crate::writers::Writers;

/// How long connections have for the answers that are under way when the server stops.
const STOP_TIME: Duration = Duration::from_secs(5);
/// Most clients that are turned away at the same time with a reason; others are without one.
const MOST_TURNED_AWAY: usize = 32;

/// What all connections share.
pub(crate) struct Service<B> {
    pub backend: B,
    pub limits: Limits,
    pub document: Bytes,
    pub writers: Rc<Writers>,
}

/// A server of clients whom somebody else has let in.
pub struct Server<B> {
    service: Rc<Service<B>>,
}

impl<B: Backend> Server<B> {
    /// One that has `backend` carry requests out. How many connections there may be is up to who lets them in.
    ///
    /// # Errors
    /// A fault of the API's own description.
    pub fn new(backend: B, limits: Limits) -> io::Result<Self> {
        let document = document::document().to_json().map_err(io::Error::other)?.into();
        Ok(Self { service: Rc::new(Service { backend, limits, document, writers: Rc::default() }) })
    }

    /// Serves the client of `stream` until one side ends it. To be called in a [`LocalSet`] of a current-thread runtime
    /// of tokio, with I/O and time enabled.
    pub async fn converse(&self, stream: UnixStream, caller: B::Caller) {
        Connection::new(Rc::clone(&self.service), stream, Ok(caller)).serve(std::future::pending()).await;
    }
}

/// Serves clients of `listener` until `until` is ready and the answers that are then under way have been given.
///
/// Runs in one thread: the current-thread runtime of tokio that it is called in, with I/O and time enabled. The listener
/// has to be non-blocking.
///
/// # Errors
/// If the listener is unusable. A process without descriptors or memory for another connection is no such case.
pub async fn serve<B: Reception>(
    listener: UnixListener,
    backend: B,
    limits: Limits,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    let Server { service } = Server::new(backend, limits)?;
    LocalSet::new().run_until(accept_all(&listener, service, until)).await
}

async fn accept_all<B: Reception>(
    listener: &UnixListener,
    service: Rc<Service<B>>,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stop, stopped) = tokio::sync::watch::channel(());
    let guests = Rc::new(RefCell::new(Occupancy::default()));
    let mut connections = JoinSet::new();
    let mut until = pin!(until);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some((place, connection)) = admit(&service, &guests, stream) else { continue };
                    let mut stopped = stopped.clone();
                    connections.spawn_local(async move {
                        let _place = place;
                        // An error means that the sender is gone, which is how the server says that it stops.
                        connection.serve(async move { drop(stopped.changed().await) }).await;
                    });
                }
                Err(error) => pause_after(&error, &service.limits).await?,
            },
            Some(_) = connections.join_next() => {}
            () = until.as_mut() => break,
        }
    }
    drop(stop);
    let answered = async { while connections.join_next().await.is_some() {} };
    // What is then left is dropped with the set.
    let _ = tokio::time::timeout(STOP_TIME, answered).await;
    Ok(())
}

/// Whether to go on accepting after `error`, and when.
async fn pause_after(error: &io::Error, limits: &Limits) -> io::Result<()> {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
            log::warn!("accept a client: {error}; trying again in {:?}", limits.accept_pause);
            tokio::time::sleep(limits.accept_pause).await;
            Ok(())
        }
        Some(Errno::CONNABORTED | Errno::INTR | Errno::AGAIN | Errno::PERM) => Ok(()),
        _ => Err(io::Error::new(error.kind(), format!("accept a client: {error}"))),
    }
}

/// Who has how many connections.
#[derive(Default)]
struct Occupancy {
    users: BTreeMap<u32, usize>,
    others_than_root: usize,
    turned_away: usize,
}

/// A connection's place, given back when it is over.
struct Place {
    occupancy: Rc<RefCell<Occupancy>>,
    kind: PlaceKind,
}

#[derive(Clone, Copy)]
enum PlaceKind {
    User(u32),
    TurnedAway,
}

impl Place {
    /// Room for one more connection of this kind.
    fn take(occupancy: &Rc<RefCell<Occupancy>>, kind: PlaceKind) -> Self {
        occupancy.borrow_mut().count(kind, usize::saturating_add);
        Self { occupancy: Rc::clone(occupancy), kind }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.occupancy.borrow_mut().count(self.kind, usize::saturating_sub);
    }
}

impl Occupancy {
    fn count(&mut self, kind: PlaceKind, change: fn(usize, usize) -> usize) {
        match kind {
            PlaceKind::TurnedAway => self.turned_away = change(self.turned_away, 1),
            PlaceKind::User(uid) => {
                let connections = self.users.entry(uid).or_default();
                *connections = change(*connections, 1);
                if *connections == 0 {
                    self.users.remove(&uid);
                }
                if uid != 0 {
                    self.others_than_root = change(self.others_than_root, 1);
                }
            }
        }
    }

    /// Why a user can't have another connection.
    fn full(&self, uid: u32, limits: &Limits) -> Option<stockade_api::Error> {
        let limit = if uid == 0 { limits.connections_of_root } else { limits.connections_of_user };
        if self.users.get(&uid).is_some_and(|connections| *connections >= limit) {
            return Some(failure::too_many_connections("you", limit));
        }
        let crowded = uid != 0 && self.others_than_root >= limits.connections_of_users;
        crowded.then(|| failure::too_many_connections("all users", limits.connections_of_users))
    }
}

/// Finds a place for a client, or a way to tell it that there is none, or neither.
fn admit<B: Reception>(
    service: &Rc<Service<B>>,
    occupancy: &Rc<RefCell<Occupancy>>,
    stream: UnixStream,
) -> Option<(Place, Connection<B>)> {
    // What a client may do is not up to this; the kernel is asked so that one user leaves room for others.
    let uid = stream.peer_cred().ok()?.uid();
    let full = occupancy.borrow().full(uid, &service.limits);
    let (kind, caller) = match full {
        Some(error) => (PlaceKind::TurnedAway, Err(error)),
        None => (PlaceKind::User(uid), service.backend.connection(stream.as_fd())),
    };
    if full_of_turned_away(kind, &occupancy.borrow()) {
        return None;
    }
    Some((Place::take(occupancy, kind), Connection::new(Rc::clone(service), stream, caller)))
}

fn full_of_turned_away(kind: PlaceKind, occupancy: &Occupancy) -> bool {
    matches!(kind, PlaceKind::TurnedAway) && occupancy.turned_away >= MOST_TURNED_AWAY
}
