//! `stockade stop`.

use std::time::Duration;

use serde::Serialize;
use stockade_api::body::Ended;
use stockade_api::{ErrorCode, StopMode, VmId, VmReference, VmState, VmSummary};
use stockade_client::{Client, ClientError};
use stockade_supervisor::text::printable;
use tokio::task::JoinSet;

use super::output::{Outcome, Output};
use super::{ending, unless_done};
use crate::arguments::StopArguments;
use crate::failure::Failure;
use crate::run::say;

/// How many are stopped at once. Each takes two connections, of which the daemon grants a user 64.
const AT_ONCE: usize = 16;

/// First and longest pause between looks at a guest that is being asked to stop.
const LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// How far a stop is to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The guest has been asked.
    Asked,
    /// It is over.
    Over,
}

/// How far a stop went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Stopped {
    /// The guest was asked to.
    Asked(Box<VmSummary>),
    /// It is over.
    Over(Ended),
}

/// What `stop --all --json` prints of each.
#[derive(Debug, Serialize)]
struct OneOfAll {
    id: VmId,
    name: String,
    #[serde(flatten)]
    result: OneResult,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum OneResult {
    Stopped(Stopped),
    Error(Failure),
}

/// Stops one, or all that run.
pub async fn stop(arguments: &StopArguments, client: &Client, output: Output) -> Outcome {
    let mode = if arguments.force { StopMode::Force } else { StopMode::Ask };
    let until = if arguments.wait || arguments.force { Until::Over } else { Until::Asked };
    let Some(vm) = &arguments.vm else {
        return all(client, mode, until, output).await;
    };
    let stopped = one(client, vm, mode, until).await.map_err(|error| unless_done(error, ErrorCode::NotRunning))?;
    output.show(&stopped, || line(&vm.to_string(), &stopped, mode))
}

/// Stops one.
async fn one(client: &Client, vm: &VmReference, mode: StopMode, until: Until) -> Result<Stopped, ClientError> {
    let stop = async { client.stop(vm, mode).await.map(|exit| Stopped::Over(Ended { exit })) };
    match until {
        Until::Over => stop.await,
        Until::Asked => tokio::select! {
            biased;
            over = stop => over,
            vm = stopping(client, vm) => Ok(Stopped::Asked(Box::new(vm))),
        },
    }
}

/// Returns once the daemon says that the virtual machine is stopping.
async fn stopping(client: &Client, vm: &VmReference) -> VmSummary {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
        // Whatever else there is to know, the answer to the stop itself says.
        if let Ok(vm) = client.show(vm).await
            && vm.state == VmState::Stopping
        {
            return vm;
        }
    }
}

/// Stops all that run, many at once, and says how each of them went.
async fn all(client: &Client, mode: StopMode, until: Until, output: Output) -> Outcome {
    let mut running = client.list().await?.into_iter().filter(|vm| vm.state.is_live());
    let mut under_way = JoinSet::new();
    let mut results = Vec::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some(vm) = running.next()
        {
            let client = client.clone();
            under_way.spawn(async move {
                let result = one(&client, &VmReference::Id(vm.id), mode, until).await;
                (vm.id, vm.name, result.map_err(Failure::from))
            });
        }
        match under_way.join_next().await {
            None => break,
            Some(Err(_)) => {}
            Some(Ok((id, name, result))) => {
                let result = match result {
                    // Somebody else was faster.
                    Err(failure) if is_gone(&failure) => OneResult::Stopped(Stopped::Over(Ended { exit: None })),
                    Err(failure) => OneResult::Error(failure),
                    Ok(stopped) => OneResult::Stopped(stopped),
                };
                let one = OneOfAll { id, name, result };
                if !output.is_json() {
                    one.say(mode);
                }
                results.push(one);
            }
        }
    }
    results.sort_by_key(|one| one.id);
    if output.is_json() {
        output.document(&results)?;
    }
    match results.iter().find_map(OneOfAll::failure) {
        None => Ok(()),
        Some(first) => Err(summary(first, results.iter().filter_map(OneOfAll::failure).count())),
    }
}

/// The failure of `stop --all`: that of the first one that could not be stopped.
fn summary(first: &Failure, failed: usize) -> Failure {
    let message = format!("{failed} could not be stopped");
    Failure { message, remedy: String::new(), ..first.clone() }
}

fn is_gone(failure: &Failure) -> bool {
    [ErrorCode::NotRunning, ErrorCode::NotFound].iter().any(|code| code.name() == failure.code)
}

impl OneOfAll {
    fn failure(&self) -> Option<&Failure> {
        match &self.result {
            OneResult::Stopped(_) => None,
            OneResult::Error(failure) => Some(failure),
        }
    }

    fn say(&self, mode: StopMode) {
        match &self.result {
            OneResult::Stopped(stopped) => say(&printable(&line(&self.name, stopped, mode))),
            OneResult::Error(failure) => say(&printable(&format!("stopping vm {}: {}", self.name, failure.text()))),
        }
    }
}

fn line(vm: &str, stopped: &Stopped, mode: StopMode) -> String {
    let done = if mode == StopMode::Force { "forced to terminate" } else { "terminated" };
    let result = match stopped {
        Stopped::Asked(_) => "requested to shut down".to_owned(),
        Stopped::Over(Ended { exit: None }) => done.to_owned(),
        Stopped::Over(Ended { exit }) => ending(done, exit.as_ref()),
    };
    format!("stopping vm {vm}: {result}")
}
