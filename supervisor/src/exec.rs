//! A command in a guest that is there already, over a connection to its agent.
//!
//! The guest lives on when the command has ended. When the connection breaks off, the agent ends the command.

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split};

use crate::client::Client;
use crate::command::{CommandError, execute};
use crate::request::CommandRequest;
use crate::run::Outcome;
use crate::session::{Connection, SessionError};

/// An agent that has greeted.
#[derive(Debug)]
pub struct Agent<S>(Connection<ReadHalf<S>, WriteHalf<S>>);

impl<S: AsyncRead + AsyncWrite> Agent<S> {
    /// Greets the agent at the other end of `stream`, and waits until it has greeted back.
    ///
    /// # Errors
    /// There is none, or one that does not speak this protocol.
    pub async fn greet(stream: S) -> Result<Self, SessionError> {
        let (reader, writer) = split(stream);
        Connection::greet(reader, writer).await.map(Self)
    }

    /// Runs a command, connected with `client`, to its end.
    ///
    /// # Errors
    /// The connection broke off, or a stream of the caller did.
    pub async fn execute(self, request: &CommandRequest, client: &mut Client) -> Result<Outcome, CommandError> {
        let (session, driver) = self.0.into_session();
        tokio::select! {
            biased;
            end = execute(&session, request, client) => end.map(|end| end.outcome),
            error = driver => Err(error.into()),
        }
    }
}
