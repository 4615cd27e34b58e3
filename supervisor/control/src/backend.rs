//! Who carries requests out.

use std::os::fd::BorrowedFd;

use stockade_api::{Answer, Error, Request};

/// What the server hands requests to. All of it happens in one thread.
#[expect(async_fn_in_trait, reason = "everything is in one thread, so no future has to be sent to another one")]
pub trait Backend: 'static {
    /// Who is at the other end of one connection. Dropped when the connection is over.
    type Caller: 'static;

    /// A client has connected by `stream`, and said nothing yet.
    ///
    /// Who decides what the client may do should ask the kernel for itself who that is: `SO_PEERCRED` of a duplicate of
    /// `stream` is beyond the reach of a server that somebody has taken over.
    ///
    /// # Errors
    /// Becomes the answer to the client's first request, after which the connection is closed.
    fn connection(&self, stream: BorrowedFd<'_>) -> Result<Self::Caller, Error>;

    /// Carries `request` out for `caller`.
    ///
    /// The future is dropped if the client vanishes before it is ready. Several of one caller can be under way at once:
    /// a request of a client that does not read what it is sent is dropped only after a while.
    ///
    /// # Errors
    /// Becomes the client's answer as it is.
    async fn ask(&self, caller: &Self::Caller, request: Request) -> Result<Answer, Error>;
}
