//! The virtual machine monitor: one VM, driven over a JSON API socket.

use std::process::ExitCode;

use stockade_confinement::Expectation;
use stockade_devices::legacy::boot_timer::Timestamp;
use stockade_vmm::cli::{self, ArgumentError, Arguments, Command};
use stockade_vmm::process::{self, Failure};
use stockade_vmm::sys;

/// Exit code of a vmm whose arguments are wrong, as Firecracker's.
const BAD_ARGUMENTS: u8 = 153;

fn main() -> ExitCode {
    let start = Timestamp::now();
    sys::use_one_malloc_arena();
    sys::close_descriptors_on_exec();
    let program = std::env::args_os().next().unwrap_or_default();
    match cli::parse(std::env::args_os()) {
        Ok(Command::Version) => print(&cli::version(&program.to_string_lossy())),
        Ok(Command::Help) => print(cli::HELP),
        Ok(Command::Run(mut arguments)) => match arguments.hear(std::env::var_os(Expectation::VARIABLE)) {
            Ok(()) => run(*arguments, start),
            Err(error) => refuse(&error),
        },
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ArgumentError) -> ExitCode {
    eprintln!("error: {error}");
    BAD_ARGUMENTS.into()
}

fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn run(arguments: Arguments, start: Timestamp) -> ExitCode {
    match process::run(arguments, start) {
        Ok(reason) => reason.code().into(),
        Err(Failure { error, code }) => {
            log::error!("{error}");
            code.into()
        }
    }
}
