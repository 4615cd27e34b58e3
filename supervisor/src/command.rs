//! A command in a guest: its streams, its signals, and the limit to its time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use stockade_guest_protocol::{Command, Task};
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Notice, Notices, StreamError, deliver, feed};
use crate::request::CommandRequest;
use crate::run::Outcome;
use crate::session::{ChannelEnd, ChannelHandle, Session, SessionError};

/// How long a command that was asked to end may take, before it and its machine are killed.
const GRACE: Duration = Duration::from_secs(3);
const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

/// Stockade could not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The agent.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A stream of the caller.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A descriptor of the caller.
    #[error("duplicate a descriptor")]
    Descriptor(#[source] io::Error),
}

/// What became of the command, and what is to become of its machine.
pub(crate) struct CommandEnd {
    pub(crate) outcome: Outcome,
    pub(crate) next: Next,
}

/// What is to become of a machine after its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The caller gets what it wanted to have copied.
    CopyOut,
    /// The caller wants no more of it, so it may unmount its disks.
    PowerOff,
    /// The guest does not do what it is told, or the caller does not want to wait for that.
    Kill,
}

impl CommandEnd {
    /// The caller ended the run with `signal`.
    pub(crate) fn interrupted(signal: u8, next: Next) -> Self {
        Self { outcome: Outcome::Interrupted { signal }, next }
    }
}

/// Why and until when a command is to end.
enum Ending {
    /// It may go on until then, if there is a limit.
    NotYet(Option<Instant>),
    /// The caller sent this signal, which was passed on; until then it may end by itself.
    Asked(u8, Instant),
    /// Its time is up, and it got SIGTERM; SIGKILL follows then.
    Terminated(Instant),
    /// It got SIGKILL; then its machine follows.
    Killed(Instant),
}

impl Ending {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::NotYet(limit) => *limit,
            Self::Asked(_, deadline) | Self::Terminated(deadline) | Self::Killed(deadline) => Some(*deadline),
        }
    }
}

/// Runs the command of `request` and connects it with `client`.
pub(crate) async fn execute(
    session: &Session,
    request: &CommandRequest,
    client: &mut Client,
) -> Result<CommandEnd, CommandError> {
    let ChannelHandle { input, output, error, control, mut life } = session.start(task(request, &client.notices))?;
    let descriptor = |stream: &std::os::fd::OwnedFd| stream.try_clone().map(Arc::new).map_err(CommandError::Descriptor);
    let feeding = feed(descriptor(&client.input)?, input);
    let delivering = {
        let output = deliver(output, descriptor(&client.output)?, "write standard output");
        let error = deliver(error, descriptor(&client.error)?, "write standard error");
        async { tokio::join!(output, error) }
    };
    tokio::pin!(feeding, delivering);
    let (mut fed, mut delivered, mut ended) = (None, None, None);
    let limit = request.timeout.map(|limit| (limit, Instant::now() + limit));
    let mut ending = Ending::NotYet(limit.map(|(_, at)| at));
    loop {
        if let (Some(end), Some(streams)) = (&ended, &mut delivered) {
            let (output, error) = std::mem::replace(streams, (Ok(()), Ok(())));
            output?;
            error?;
            fed.unwrap_or(Ok(()))?;
            return Ok(CommandEnd { outcome: outcome(end, &ending, limit), next: Next::CopyOut });
        }
        let deadline = ending.deadline().filter(|_| ended.is_none());
        tokio::select! {
            result = &mut feeding, if fed.is_none() => fed = Some(result),
            result = &mut delivering, if delivered.is_none() => delivered = Some(result),
            end = life.ended(), if ended.is_none() => ended = Some(end?),
            notice = client.notices.next() => match notice {
                Notice::Resize(size) => control.resize(size),
                Notice::Signal(signal) => {
                    let again = matches!(ending, Ending::Asked(..)) || ended.is_some();
                    if Notices::is_stopping(signal) {
                        if again {
                            return Ok(CommandEnd::interrupted(signal, Next::Kill));
                        }
                        ending = Ending::Asked(signal, Instant::now() + GRACE);
                    }
                    control.signal(signal);
                },
            },
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                ending = match (ending, limit) {
                    (Ending::NotYet(_), _) => {
                        control.signal(SIGTERM);
                        Ending::Terminated(Instant::now() + GRACE)
                    },
                    (Ending::Terminated(_), _) => {
                        control.signal(SIGKILL);
                        Ending::Killed(Instant::now() + GRACE)
                    },
                    (Ending::Asked(signal, _), _) => return Ok(CommandEnd::interrupted(signal, Next::PowerOff)),
                    (Ending::Killed(_), limit) => {
                        let limit = limit.map(|(limit, _)| limit).unwrap_or_default();
                        return Ok(CommandEnd { outcome: Outcome::TimedOut { limit }, next: Next::Kill });
                    },
                };
            },
        }
    }
}

fn task<'a>(request: &'a CommandRequest, notices: &Notices) -> Task<'a> {
    Task::Command(Command {
        arguments: request.arguments.iter().map(|argument| argument.as_encoded_bytes()).collect(),
        environment: request.environment.iter().map(|entry| entry.as_bytes()).collect(),
        directory: request.directory.as_ref().map(|path| path.as_os_str().as_encoded_bytes()),
        terminal: request.terminal.map(|size| notices.last_size().unwrap_or(size)),
    })
}

fn outcome(end: &ChannelEnd, ending: &Ending, limit: Option<(Duration, Instant)>) -> Outcome {
    if let (Ending::Terminated(_) | Ending::Killed(_), Some((limit, _))) = (ending, limit) {
        return Outcome::TimedOut { limit };
    }
    match end {
        ChannelEnd::Exited(code) => Outcome::Exited { code: *code },
        ChannelEnd::Signaled(signal) => Outcome::Signaled { signal: *signal },
        ChannelEnd::Failed { code, reason } => Outcome::NotStarted { code: *code, reason: reason.clone() },
    }
}
