//! Who carries requests out, and who says whose they are.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use stockade_api::{Answer, Error, Request, VmId};
use tokio::sync::Notify;

/// What the server hands requests to. All of it happens in one thread.
#[expect(async_fn_in_trait, reason = "everything is in one thread, so no future has to be sent to another one")]
pub trait Backend: 'static {
    /// Who is at the other end of one connection. Dropped when the connection is over.
    type Caller: 'static;

    /// Carries `request` out for `caller`.
    ///
    /// The future is dropped if the client vanishes before it is ready. Several of one caller can be under way at once:
    /// a request of a client that does not read what it is sent is dropped only after a while.
    ///
    /// # Errors
    /// Becomes the client's answer as it is.
    async fn ask(&self, caller: &Self::Caller, request: Request) -> Result<Answer, Error>;

    /// Has `caller` attached to something of a virtual machine, as this request says ([`Request::Attach`] or [`Request::Run`]).
    /// The server relays what that carries.
    ///
    /// # Errors
    /// Becomes the client's answer as it is.
    async fn attach(&self, caller: &Self::Caller, request: Request) -> Result<Attachment, Error>;
}

/// A backend whose server accepts connections itself.
pub trait Reception: Backend {
    /// A client has connected by `stream`, and said nothing yet.
    ///
    /// # Errors
    /// Becomes the answer to the client's first request, after which the connection is closed.
    fn connection(&self, stream: BorrowedFd<'_>) -> Result<Self::Caller, Error>;
}

/// What a client is attached to.
#[derive(Debug)]
pub enum Attachment {
    /// A console.
    Console(Console),
    /// A connected stream socket: whatever comes from it goes to the client, and the other way round. When one side ends what it
    /// sends, the other one is told so; it is over when both have, or one is gone.
    Stream(OwnedFd),
}

/// A console that is kept in a ring (see [`stockade_jailer::console`]).
#[derive(Debug)]
pub struct Console {
    /// Whose it is.
    pub vm: VmId,
    /// The ring.
    pub ring: File,
    /// Bytes of the ring.
    pub ring_bytes: u32,
    /// What is typed: a fifo that does not block.
    pub input: Option<OwnedFd>,
    /// Told whenever something may have been written to the ring.
    pub written: Rc<Notify>,
}
