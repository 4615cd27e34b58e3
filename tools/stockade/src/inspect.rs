//! `stockade inspect`: what confines a virtual machine, as the kernel says it.

mod facts;
mod table;

use std::io::{self, Write};

use stockade_supervisor::inspection::{Inspection, InspectionError, inspect};
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
        Ok(inspection) if inspection.verdict.is_confined() => 0,
        Ok(_) => NOT_CONFINED,
        Err(error) => {
            say(&chain(&error));
            Outcome::FAILED
        }
    }
}

fn show(arguments: &InspectArguments) -> Result<Inspection, InspectError> {
    let inspection = inspect(&arguments.subject)?;
    let text = if arguments.json {
        serde_json::to_string_pretty(&inspection).map_err(io::Error::from)?
    } else {
        table::render(&inspection)
    };
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()?;
    Ok(inspection)
}
