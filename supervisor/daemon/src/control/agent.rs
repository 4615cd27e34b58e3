//! Connections to agents of guests: the vmm is told here to make them, since what it answers could be a guest's words.

use std::os::fd::OwnedFd;
use std::time::Duration;

use stockade_api::{Error, ErrorCode};
use stockade_control::Attachment;
use stockade_supervisor::machine::request::call_agent;
use tokio::time::timeout;

use super::link::client;

/// How long a guest is waited for whose kernel has not come to its vsock device yet, if it is known to run an agent, and if not.
const EXPECTED_LIMIT: Duration = Duration::from_secs(10);
const UNEXPECTED_LIMIT: Duration = Duration::from_secs(3);

/// Has the vmm at the other end of `socket` call the agent.
pub(super) async fn call(socket: OwnedFd, expected: bool) -> Result<Attachment, Error> {
    let mut stream = client(socket).map_err(|error| internal(&error))?;
    let limit = if expected { EXPECTED_LIMIT } else { UNEXPECTED_LIMIT };
    if !matches!(timeout(limit, call_agent(&mut stream)).await, Ok(Ok(()))) {
        return Err(unanswered(expected));
    }
    let stream = stream.into_std().map_err(|error| internal(&error))?;
    Ok(Attachment::Stream(stream.into()))
}

fn unanswered(expected: bool) -> Error {
    if expected {
        let message = "the guest's agent does not answer; the guest may still boot";
        return Error::new(ErrorCode::AgentNotReady, message, "try again in a while; stockade logs may show why");
    }
    let remedy = "its guest has to run stockade-agent, as that of `boot default` in vm.conf does";
    Error::new(ErrorCode::NoAgent, "no agent answers in the guest", remedy)
}

fn internal(error: &std::io::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("reach the guest's agent: {error}"), "")
}
