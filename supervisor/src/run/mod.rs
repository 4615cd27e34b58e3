//! The life of one command in one virtual machine that is made for it, from opening images to removing the last trace.

mod keeper;
mod outcome;
mod resources;
#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stockade_guest_protocol::{ENTROPY_BYTES, Renewal, Root, Setup};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split};
use tokio::time::{sleep, timeout};

use crate::client::{Client, StreamError};
use crate::command::{self, CommandEnd, CommandError, Next};
use crate::config::ROOT_DEVICE;
use crate::images::ImageError;
use crate::installation::{Installation, InstallationError};
use crate::machine::MachineEnd;
use crate::machine::launch::{LaunchError, launch};
use crate::phases::{Observer, Phase, PhaseClock};
use crate::report::{self, Report, Start};
use crate::request::{Access, RunRequest};
use crate::session::{Connection, Session, SessionError};
use crate::text::chain;
use crate::transfer::{CopyError, Destination, DestinationError, copy_in, copy_out};

pub use outcome::Outcome;
pub(crate) use resources::open_kvm;

pub use keeper::{Keeper, Kept};

use resources::{Resources, destinations};

/// How long a guest may take to boot and call: long enough for one whose kernel is emulated, on a busy host.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a guest may take to power itself off when nothing depends on it.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for the reason when a session breaks off.
const REASON_LIMIT: Duration = Duration::from_secs(3);

/// Stockade could not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Stockade's own programs.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A destination of `--copy-out`.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// Something else about the request.
    #[error("{0}")]
    Request(String),
    /// The host's part of the start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The virtual machine ended before its command did.
    #[error(transparent)]
    Machine(#[from] MachineEnd),
    /// The guest did not come up.
    #[error("the guest did not call within {} seconds; run with --verbose, or try another --kernel", BOOT_LIMIT.as_secs())]
    BootTimeout,
    /// The agent.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A copy between host and guest.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A stream of the caller.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A descriptor of the caller.
    #[error("duplicate a descriptor")]
    Descriptor(#[source] io::Error),
}

impl From<CommandError> for RunError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Session(error) => error.into(),
            CommandError::Stream(error) => error.into(),
            CommandError::Descriptor(error) => Self::Descriptor(error),
        }
    }
}

impl RunError {
    /// Exit code of a run that failed so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Machine(MachineEnd::Violation(_)) => Outcome::VIOLATED,
            _ => Outcome::FAILED,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Run {
    /// The outcome of the command, or why there is none.
    pub outcome: Result<Outcome, RunError>,
    /// Everything about it.
    pub report: Report,
    /// The last lines of the guest's console, if the guest failed.
    pub console: Vec<String>,
}

/// Runs the command of `request` in a virtual machine of its own. When this returns, nothing of it is left, or the report
/// says what is.
pub async fn run(
    request: &RunRequest,
    installation: &Installation,
    client: &mut Client,
    observer: &mut dyn Observer,
) -> Run {
    let start = async || {
        let (resources, blueprint) = Resources::open(request, installation)?;
        let (machine, agent) = launch(blueprint)?;
        Ok(Kept { keeper: machine, agent, destinations: resources.destinations, start: Some(resources.start) })
    };
    story(request, start, client, observer).await
}

/// As [`run`], in a virtual machine that somebody else keeps: `start` has it started. Returns once that one is gone too.
pub async fn run_kept<K: Keeper, S: AsyncRead + AsyncWrite>(
    request: &RunRequest,
    start: impl AsyncFnOnce() -> Result<(K, S), RunError>,
    client: &mut Client,
    observer: &mut dyn Observer,
) -> Run {
    let start = async || {
        let destinations = destinations(request)?;
        let (keeper, agent) = start().await?;
        Ok(Kept { keeper, agent, destinations, start: None })
    };
    story(request, start, client, observer).await
}

async fn story<K: Keeper, S: AsyncRead + AsyncWrite>(
    request: &RunRequest,
    start: impl AsyncFnOnce() -> Result<Kept<K, S>, RunError>,
    client: &mut Client,
    observer: &mut dyn Observer,
) -> Run {
    let mut life = Life { request, clock: PhaseClock::new(observer), start: None, warnings: Vec::new() };
    let mut confinement = Vec::new();
    let mut console = Vec::new();
    let mut violation = None;
    life.clock.enter(Phase::Jail);
    let outcome = match start().await {
        Ok(Kept { mut keeper, agent, destinations, start }) => {
            life.start = start;
            let mut outcome = life.live(&mut keeper, agent, &destinations, client).await;
            life.clock.enter(Phase::Stop);
            confinement = keeper.confinement();
            if outcome.is_err() {
                console = keeper.console_tail().await;
            }
            life.warnings.extend(keeper.remove().await.into_iter().map(|left| format!("left behind: {left}")));
            violation = keeper.violation();
            // Whatever the command's end looked like, it came from a vmm that was not itself any more.
            if let Some(violation) = &violation {
                outcome = Err(MachineEnd::Violation(violation.clone()).into());
            }
            outcome
        }
        Err(error) => Err(error),
    };
    life.clock.end();
    let report = Report {
        version: report::VERSION,
        stockade: env!("CARGO_PKG_VERSION"),
        name: request.name.to_string(),
        exit_code: outcome.as_ref().map_or_else(RunError::exit_code, Outcome::exit_code),
        outcome: outcome.as_ref().ok().cloned(),
        error: outcome.as_ref().err().map(|error| chain(error)),
        violation,
        start: life.start,
        phases: life.clock.times().to_vec(),
        confinement,
        without: request.without.clone(),
        warnings: life.warnings,
    };
    Run { outcome, report, console }
}

struct Life<'a> {
    request: &'a RunRequest,
    clock: PhaseClock<'a>,
    start: Option<Start>,
    warnings: Vec<String>,
}

impl Life<'_> {
    /// From the first instruction of the guest to the last one that matters.
    async fn live(
        &mut self,
        machine: &mut impl Keeper,
        agent: impl AsyncRead + AsyncWrite,
        destinations: &[Destination],
        client: &mut Client,
    ) -> Result<Outcome, RunError> {
        let connection = tokio::select! {
            biased;
            signal = client.notices.stopped() => return Ok(Outcome::Interrupted { signal }),
            connection = self.boot(machine, agent) => connection?,
        };
        let (session, driver) = connection.into_session();
        tokio::pin!(driver);
        let conversation = tokio::select! {
            biased;
            end = self.converse(&session, destinations, client) => end,
            end = machine.ended() => Err(end.into()),
            error = &mut driver => Err(explain(error, machine).await),
        };
        if self.needs_power_off(&conversation) {
            session.power_off();
            tokio::select! {
                _ = machine.ended() => {},
                () = async { driver.await; std::future::pending().await } => {},
                _ = client.notices.stopped() => {},
                () = sleep(POWER_OFF_LIMIT) => {
                    self.warnings.push("the guest did not power itself off in time, and was killed".to_owned());
                },
            }
        }
        conversation.map(|end| end.outcome)
    }

    /// A guest that may have changed an image has to unmount it; any other is just killed, which is faster.
    fn needs_power_off(&self, conversation: &Result<CommandEnd, RunError>) -> bool {
        let obeys = match conversation {
            Ok(end) => end.next != Next::Kill,
            Err(RunError::Machine(_) | RunError::Session(_)) => false,
            Err(_) => true,
        };
        obeys && self.request.root.as_ref().is_some_and(|root| root.access == Access::ReadWrite)
    }

    /// From the jail to a guest that is ready for the command.
    async fn boot<S: AsyncRead + AsyncWrite>(
        &mut self,
        machine: &mut impl Keeper,
        agent: S,
    ) -> Result<Connection<ReadHalf<S>, WriteHalf<S>>, RunError> {
        let started_at_us = machine.started(&mut self.clock).await?;
        let phase = if self.start == Some(Start::Warm) { Phase::Resume } else { Phase::Kernel };
        self.clock.enter_at(phase, started_at_us);
        let (reader, writer) = split(agent);
        let greeted = tokio::select! {
            biased;
            greeted = timeout(BOOT_LIMIT, Connection::greet(reader, writer)) => greeted,
            end = machine.ended() => return Err(end.into()),
        };
        let mut connection = match greeted {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(explain(error, machine).await),
            Err(_) => return Err(RunError::BootTimeout),
        };
        self.clock.enter(Phase::Agent);
        if let Err(error) = renew(&mut connection).await {
            return Err(explain(error, machine).await);
        }
        let writable = self.request.root.as_ref().map(|root| root.access == Access::ReadWrite);
        let root = writable.map(|writable| Root { device: ROOT_DEVICE, writable });
        let set_up = tokio::select! {
            biased;
            set_up = timeout(BOOT_LIMIT, connection.set_up(Setup { hostname: self.request.name.as_str(), root })) => set_up,
            end = machine.ended() => return Err(end.into()),
        };
        match set_up {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err(explain(error, machine).await),
            Err(_) => Err(RunError::BootTimeout),
        }
    }

    /// Everything that is asked of the agent.
    async fn converse(
        &mut self,
        session: &Session,
        destinations: &[Destination],
        client: &mut Client,
    ) -> Result<CommandEnd, RunError> {
        if !self.request.copy_in.is_empty() {
            self.clock.enter(Phase::CopyIn);
        }
        for copy in &self.request.copy_in {
            tokio::select! {
                biased;
                signal = client.notices.stopped() => return Ok(CommandEnd::interrupted(signal, Next::PowerOff)),
                copied = copy_in(session, copy) => copied?,
            }
        }
        self.clock.enter(Phase::Command);
        let end = command::execute(session, &self.request.command, client).await?;
        self.clock.end();
        if end.next != Next::CopyOut || destinations.is_empty() {
            return Ok(end);
        }
        self.clock.enter(Phase::CopyOut);
        for destination in destinations {
            tokio::select! {
                biased;
                signal = client.notices.stopped() => return Ok(CommandEnd::interrupted(signal, Next::PowerOff)),
                copied = copy_out(session, destination) => match copied {
                    Ok(()) => {},
                    // A failed command explains a file that is not there, and its exit code says more.
                    Err(error) if end.outcome != (Outcome::Exited { code: 0 }) => self.warnings.push(chain(&error)),
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(end)
    }
}

/// Gives the guest random numbers and the time, which a clone has from before, and a booted one only roughly.
async fn renew<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    connection: &mut Connection<R, W>,
) -> Result<(), SessionError> {
    let mut entropy = [0; 2 * ENTROPY_BYTES];
    let mut filled = 0;
    while let Some(rest) = entropy.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let count = rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty());
        filled += count.map_err(|errno| SessionError::Socket(errno.into()))?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_time_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    connection.renew(Renewal { unix_time_ns, entropy: &entropy }).await
}

/// A session that breaks off is most often a guest that ended, which explains more.
async fn explain(error: SessionError, machine: &mut impl Keeper) -> RunError {
    match error {
        SessionError::Lost | SessionError::Socket(_) => match timeout(REASON_LIMIT, machine.ended()).await {
            Ok(end) => end.into(),
            Err(_) => error.into(),
        },
        other => other.into(),
    }
}
