//! `stockade events`.

use std::fmt::Write as _;
use std::time::Duration;

use stockade_api::Event;
use stockade_api::event::Change;
use stockade_client::Client;
use stockade_supervisor::text::printable;

use super::output::{Outcome, Output};
use super::words::moment;
use crate::arguments::EventsArguments;
use crate::failure::{Failure, exit};

/// How long a request waits for events: for what is there already, and for what is to come.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(60);

/// Shows what happened, and with `--follow` what happens.
pub async fn events(arguments: &EventsArguments, client: &Client, output: Output) -> Outcome {
    let now = client.cursor().await?;
    // Who only follows has no interest in the past.
    let mut after = arguments.after.unwrap_or(if arguments.follow { now } else { 0 });
    let wait = if arguments.follow { LONG } else { SHORT };
    while arguments.follow || after != now {
        let page = client.events(after, wait).await.map_err(|error| resumable(error.into(), after))?;
        output.text(&text(&page.events, output))?;
        if page.events.is_empty() && !arguments.follow {
            // The last ones are not the caller's to see.
            break;
        }
        after = page.next;
    }
    Ok(())
}

fn text(events: &[Event], output: Output) -> String {
    let mut text = String::new();
    for event in events {
        if output.is_json() {
            text.push_str(&serde_json::to_string(event).unwrap_or_default());
            text.push('\n');
        } else {
            line(&mut text, event);
        }
    }
    text
}

/// A failure that says where to go on, if the daemon was lost.
fn resumable(failure: Failure, cursor: u64) -> Failure {
    match failure.exit {
        exit::NO_DAEMON | exit::UNKNOWN => Failure { remedy: format!("go on with --after {cursor}"), ..failure },
        _ => failure,
    }
}

fn line(text: &mut String, event: &Event) {
    let Event { cursor, at_ms, vm, name, generation: _, change } = event;
    let change = match change {
        Change::State { state, exit: Some(exit) } => format!("{state}: {}", exit.message),
        Change::State { state, exit: None } => state.to_string(),
        Change::Rebooted => "rebooted".to_owned(),
        Change::StartFailed { message } => format!("start failed: {message}"),
        Change::Removed => "removed".to_owned(),
    };
    // Writing to a string does not fail.
    let _ = writeln!(text, "{cursor} {} {vm} {} {}", moment(*at_ms), printable(name), printable(&change));
}
