//! `stockade inspect`: what confines a virtual machine, or the daemon's own processes, as the kernel says it.

mod facts;
mod table;

use std::io::{self, Write};
use std::path::Path;

use stockade_supervisor::inspection::{Inspection, InspectionError, inspect, inspect_daemon};
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::chain;

use crate::arguments::InspectArguments;
use crate::run::say;

/// Exit code when some layer is not on.
const NOT_CONFINED: u8 = 3;

/// Nothing was found out, or it could not be said.
#[derive(Debug, thiserror::Error)]
enum InspectError {
    #[error(transparent)]
    Inspection(#[from] InspectionError),
    #[error("write to standard output")]
    Write(#[from] io::Error),
}

/// Looks at what `arguments` name, and returns the exit code.
pub fn execute(arguments: &InspectArguments) -> u8 {
    match show(arguments) {
        Ok(inspections) if inspections.iter().all(|inspection| inspection.verdict.is_confined()) => 0,
        Ok(_) => NOT_CONFINED,
        Err(error) => {
            say(&chain(&error));
            Outcome::FAILED
        }
    }
}

fn show(arguments: &InspectArguments) -> Result<Vec<Inspection>, InspectError> {
    let inspections = match &arguments.subject {
        Some(subject) => vec![inspect(subject)?],
        None => inspect_daemon(arguments.socket.parent().unwrap_or(Path::new("/")))?,
    };
    let text = match inspections.as_slice() {
        [only] if !arguments.daemon => whole(only, arguments)?,
        all if arguments.json => serde_json::to_string_pretty(all).map_err(io::Error::from)?,
        all => all.iter().map(table::of_role).collect::<Vec<_>>().join("\n\n"),
    };
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()?;
    Ok(inspections)
}

fn whole(inspection: &Inspection, arguments: &InspectArguments) -> io::Result<String> {
    if arguments.json { Ok(serde_json::to_string_pretty(inspection)?) } else { Ok(table::render(inspection)) }
}
