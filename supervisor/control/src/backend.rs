//! Who carries requests out, and who says whose they are.

use std::os::fd::BorrowedFd;

use stockade_api::{Answer, Error, Request};

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
}

/// A backend whose server accepts connections itself.
pub trait Reception: Backend {
    /// A client has connected by `stream`, and said nothing yet.
    ///
    /// # Errors
    /// Becomes the answer to the client's first request, after which the connection is closed.
    fn connection(&self, stream: BorrowedFd<'_>) -> Result<Self::Caller, Error>;
}
