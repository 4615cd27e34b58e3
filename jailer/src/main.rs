//! Builds one jail and executes one vmm in it.
//!
//! Who I am: root, started by the supervisor with a plan and descriptors. I build the jail in a copy of myself, which becomes
//! the vmm, and stay as its warden under the vmm's own user id: without capabilities, with two kinds of folders to remove.

use std::process::ExitCode;

use stockade_jailer::plan::Plan;
use stockade_jailer::sealed;

const USAGE: &str = "usage: stockade-jailer sealed --plan-fd N | --version | --help";
const HELP: &str = "\
Builds one jail, executes one vmm in it, and stays as its warden.

usage: stockade-jailer sealed --plan-fd N   jail as the plan says that descriptor N has, as JSON
       stockade-jailer --version
       stockade-jailer --help

For programs that supervise virtual machines; people want `stockade run`.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["sealed", "--plan-fd", number] => number.parse().map_err(|_| USAGE.to_owned()).and_then(run),
        ["--version"] => {
            println!("stockade-jailer {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        ["--help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("stockade-jailer: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: i32) -> Result<(), String> {
    let file = stockade_jailer::inherited(plan).map_err(|error| format!("--plan-fd {plan}: {error}"))?;
    let plan = Plan::read(file.into()).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })?;
    sealed::run(&plan).map_err(|error| format!("control socket {}: {error}", plan.control))
}
