//! `stockade exec`: a command in a virtual machine that the daemon keeps.
//!
//! The daemon connects the guest's agent with this process, and looks at nothing of what they say to each other.

use std::io;
use std::time::Duration;

use stockade_api::{ErrorCode, VmReference};
use stockade_client::{Client as Daemon, ClientError, Joined};
use stockade_supervisor::client::Client;
use stockade_supervisor::command::CommandError;
use stockade_supervisor::exec::Agent;
use stockade_supervisor::request::CommandRequest;
use stockade_supervisor::run::Outcome;
use stockade_supervisor::session::SessionError;
use stockade_supervisor::text::{chain, printable};
use tokio::time::{Instant, sleep, timeout};

use crate::arguments::ExecArguments;
use crate::failure::Failure;
use crate::run::{client, command, say};
use crate::{signals, terminal};

/// How long a guest may take to boot: long enough for one whose kernel is emulated, on a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long to wait before an agent is asked for again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an agent may take to greet.
const GREETING_LIMIT: Duration = Duration::from_secs(60);

/// The command could not be run, or nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("prepare streams and signals")]
    Streams(#[source] io::Error),
    #[error("{0}")]
    Daemon(String),
    #[error("the guest's agent does not answer; stockade logs may show why")]
    Silence,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Runs what `arguments` ask for, and returns the exit code.
pub fn execute(arguments: ExecArguments) -> u8 {
    let ExecArguments { vm, command: arguments, socket } = arguments;
    let request = command(arguments);
    let outcome = run(&Daemon::new(socket), &vm, &request);
    terminal::restore();
    match outcome {
        Ok(outcome) => {
            outcome.message().iter().for_each(|message| say(message));
            outcome.exit_code()
        }
        Err(error) => {
            say(&chain(&error));
            Outcome::FAILED
        }
    }
}

fn run(daemon: &Daemon, vm: &VmReference, request: &CommandRequest) -> Result<Outcome, ExecError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ExecError::Streams)?;
    let outcome = runtime.block_on(async {
        let mut client = signals::notices().and_then(client).map_err(ExecError::Streams)?;
        let agent = tokio::select! {
            biased;
            signal = client.notices.stopped() => return Ok(Outcome::Interrupted { signal }),
            agent = reach(daemon, vm) => agent?,
        };
        execute_on(agent, request, &mut client).await
    });
    // A thread may still wait for somebody to type something.
    runtime.shutdown_background();
    outcome
}

async fn execute_on(agent: Agent<Joined>, request: &CommandRequest, client: &mut Client) -> Result<Outcome, ExecError> {
    if request.terminal.is_some() {
        terminal::make_raw().map_err(ExecError::Streams)?;
    }
    Ok(agent.execute(request, client).await?)
}

/// Greets the guest's agent, for which a guest that boots is waited for.
async fn reach(daemon: &Daemon, vm: &VmReference) -> Result<Agent<Joined>, ExecError> {
    let deadline = Instant::now() + BOOT_LIMIT;
    loop {
        match daemon.exec(vm).await {
            Ok(stream) => {
                return Ok(timeout(GREETING_LIMIT, Agent::greet(stream)).await.map_err(|_| ExecError::Silence)??);
            }
            Err(ClientError::Refused(error)) if error.code == ErrorCode::AgentNotReady && Instant::now() < deadline => {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(ExecError::Daemon(printable(&Failure::from(error).text()))),
        }
    }
}
