//! The verbs that the daemon carries out.
//!
//! Each of them sends requests as the caller, shows what comes back, and holds nothing. Names and messages are other tenants' and
//! guests' text, so nothing of them reaches a terminal as it is.

mod console;
mod events;
mod logs;
mod memory;
mod output;
mod start;
mod status;
mod stop;
mod switches;
mod table;
mod words;

use std::path::Path;

use stockade_api::body::Ended;
use stockade_api::{ErrorCode, Exit, VmSummary};
use stockade_client::Client;

use crate::arguments::{DaemonOptions, DaemonVerb as Verb};
use crate::failure::{Failure, Format, exit};
use output::{Outcome, Output};

/// Carries out `verb`, and returns the exit code.
pub fn execute(verb: &Verb) -> u8 {
    let Options { socket, format } = options(verb);
    let client = Client::new(socket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let carried_out = match runtime {
        Ok(runtime) => {
            let carried_out = runtime.block_on(carry_out(verb, &client, Output::new(format)));
            // A thread may still wait for somebody to type something.
            runtime.shutdown_background();
            carried_out
        }
        Err(error) => Err(Failure::own("prepare for requests", &error)),
    };
    carried_out.map_or_else(|failure| failure.report(format), |()| 0)
}

/// What every verb has.
struct Options<'a> {
    socket: &'a Path,
    format: Format,
}

fn options(verb: &Verb) -> Options<'_> {
    let DaemonOptions { socket, json } = match verb {
        Verb::Status(arguments) => &arguments.daemon,
        Verb::Ps(arguments) => &arguments.daemon,
        Verb::Switches(arguments) => &arguments.daemon,
        Verb::Start(arguments) => &arguments.daemon,
        Verb::Stop(arguments) => &arguments.daemon,
        Verb::Wait(arguments) | Verb::Pause(arguments) | Verb::Unpause(arguments) => &arguments.daemon,
        Verb::Reload(arguments) => &arguments.daemon,
        Verb::Load(arguments) => &arguments.daemon,
        Verb::Reset(arguments) => &arguments.daemon,
        Verb::Log(arguments) => &arguments.daemon,
        Verb::Events(arguments) => &arguments.daemon,
        Verb::Console(arguments) => return Options { socket: &arguments.socket, format: Format::Text },
        Verb::Logs(arguments) => return Options { socket: &arguments.socket, format: Format::Text },
    };
    Options { socket, format: if *json { Format::Json } else { Format::Text } }
}

async fn carry_out(verb: &Verb, client: &Client, output: Output) -> Outcome {
    match verb {
        Verb::Status(arguments) => status::status(arguments, client, output).await,
        Verb::Ps(arguments) => status::ps(arguments, client, output).await,
        Verb::Switches(_) => switches::switches(client, output).await,
        Verb::Start(arguments) => start::start(arguments, client, output).await,
        Verb::Stop(arguments) => stop::stop(arguments, client, output).await,
        Verb::Wait(arguments) => {
            let ended = Ended { exit: client.wait(&arguments.vm).await? };
            let how = ending("terminated", ended.exit.as_ref());
            output.show(&ended, || format!("waiting for vm {}: {how}", arguments.vm))
        }
        Verb::Pause(arguments) => {
            let paused = client.pause(&arguments.vm).await;
            let vm = paused.map_err(|error| unless_done(error, ErrorCode::AlreadyPaused))?;
            output.show(&vm, || format!("paused vm {} successfully", vm.id))
        }
        Verb::Unpause(arguments) => {
            let unpaused = client.unpause(&arguments.vm).await;
            let vm = unpaused.map_err(|error| unless_done(error, ErrorCode::NotPaused))?;
            output.show(&vm, || format!("unpaused vm {} successfully", vm.id))
        }
        Verb::Reload(_) => {
            client.reload().await?;
            output.done()
        }
        Verb::Load(arguments) => {
            client.load(&absolute(&arguments.file)?).await?;
            output.done()
        }
        Verb::Reset(arguments) => {
            client.reset(arguments.what).await?;
            output.done()
        }
        Verb::Log(arguments) => {
            client.log(arguments.verbosity).await?;
            output.done()
        }
        Verb::Events(arguments) => events::events(arguments, client, output).await,
        Verb::Console(arguments) => console::console(arguments, client).await,
        Verb::Logs(arguments) => logs::logs(arguments, client).await,
    }
}

/// The failure that `error` is; if it has the code `done`, there was nothing to do.
fn unless_done(error: impl Into<Failure>, done: ErrorCode) -> Failure {
    let failure = error.into();
    if failure.code == done.name() { Failure { exit: exit::NOTHING_TO_DO, ..failure } } else { failure }
}

/// Whether it is the daemon's state of the moment that is in the way.
fn is_passing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Interrupted | ErrorCode::ShuttingDown)
}

/// One that would have to run.
fn not_running(vm: &VmSummary) -> Failure {
    let message = format!("{} is {}", vm.name, vm.state);
    Failure::new(exit::IN_THE_WAY, ErrorCode::NotRunning.name(), message, "start it first")
}

/// What was done, and how it ended.
fn ending(done: &str, ended: Option<&Exit>) -> String {
    ended.map_or_else(|| "it never ran".to_owned(), |ended| format!("{done}: {}", ended.message))
}

/// An absolute path as the daemon takes it: text, and the caller's folder before it.
pub fn absolute(path: &Path) -> Result<String, Failure> {
    let absolute = std::path::absolute(path).map_err(|source| Failure::own("find the current folder", &source))?;
    absolute.into_os_string().into_string().map_err(|path| {
        let message = format!("{}: not UTF-8", path.display());
        Failure::new(exit::UNUSABLE, ErrorCode::InvalidValue.name(), message, "use another path")
    })
}
