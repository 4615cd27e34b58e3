//! `stockade warm`: boots a guest once, for later runs to start from.

use std::io;

use stockade_supervisor::installation::{Installation, InstallationError};
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::chain;
use stockade_supervisor::warm::{Made, WarmError, make};

use crate::arguments::WarmArguments;
use crate::run::say;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error("prepare to wait")]
    Runtime(#[source] io::Error),
    #[error("keep a booted guest")]
    Warm(#[from] WarmError),
}

/// Makes sure that there is one, and returns the exit code.
pub fn execute(arguments: WarmArguments) -> u8 {
    let (cpus, memory) = (arguments.cpus, arguments.memory);
    match execute_or_explain(arguments) {
        Ok(Made::UpToDate) => {
            say(&format!("a booted guest with {cpus} processors and {memory} is kept already, and fits"))
        }
        Ok(Made::New) => say(&format!("a booted guest with {cpus} processors and {memory} is kept from now on")),
        Err(error) => {
            say(&chain(&error));
            return Outcome::FAILED;
        }
    }
    0
}

fn execute_or_explain(arguments: WarmArguments) -> Result<Made, Error> {
    let installation = arguments.binaries.map_or_else(Installation::find, |path| Ok(Installation::at(path)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    Ok(runtime.block_on(make(&installation, arguments.cpus, arguments.memory))?)
}
