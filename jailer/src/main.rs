//! Builds one jail and executes one vmm in it.
//!
//! Who I am: root, started in one of two ways.
//! - By the supervisor, with a plan and descriptors. I build the jail in a copy of myself, which becomes the vmm, and stay as its
//!   warden under the vmm's own user id: without capabilities, with two kinds of folders to remove.
//! - With the command line of Firecracker's jailer. I build the jail around myself, and become the vmm.

#![no_main]

use std::ffi::{OsString, c_char, c_int};
use std::path::Path;

use stockade_jailer::compatible;
use stockade_jailer::compatible::command_line::{self, Command};
use stockade_jailer::plan::Plan;
use stockade_jailer::sealed;
use stockade_vmm_api::FIRECRACKER_VERSION;

const SEALED: &str = "sealed";
const USAGE: &str = "usage: stockade-jailer sealed --plan-fd N | --id ID --exec-file VMM --uid N --gid N [OPTION...] -- VMM ARGUMENTS | --version | --help";
const HELP: &str = "\
Builds one jail, and executes one vmm in it.

usage: stockade-jailer --id ID --exec-file VMM --uid N --gid N [OPTION...] -- VMM ARGUMENTS
       stockade-jailer sealed --plan-fd N   jail as the plan says that descriptor N has, as JSON, and stay as the
                                            vmm's warden; for programs that supervise virtual machines

The options are those of Firecracker's jailer:
      --id ID                  name of the VM: 1 to 64 letters, digits and '-'
      --exec-file VMM          the vmm's program: static, and writable by root alone
      --uid N, --gid N         the user and the group that the vmm becomes
      --chroot-base-dir PATH   where jails are: PATH/NAME/ID/root, with the program's NAME [/srv/jailer]
      --netns PATH             the network namespace that the vmm is in
      --daemonize              a session of its own, with /dev/null as standard streams
      --new-pid-ns             a PID namespace of its own; /NAME.pid in the jail has the host's number
      --cgroup FILE=VALUE      a value in the VM's control group, as cpu.shares=10; may be repeated
      --cgroup-version 1|2     [1]
      --parent-cgroup PATH     where the VM's control group is, below the root of the hierarchy [NAME]
      --resource-limit fsize=BYTES|no-file=N|processes=N
                               most bytes of a file, descriptors [2048], processes of the user [4096]; may be repeated
      --version, --help

and two of its own:
      --private-copy           execute a copy of the program in the jail, so that no other vmm has a page of it in common
      --without LAYER          give up a layer: cgroup, namespaces, root, resource-limits, capabilities, uid, landlock
                               or seccomp; or one of the namespaces: ipc-namespace, uts-namespace or
                               cgroup-namespace; may be repeated";

/// The C library starts the program here. Rust's own start is left out: it reads `/proc/self/maps`, to be able to tell an overflow
/// of the stack from other faults, for which the kernel takes as long as for the namespaces of a jail.
// SAFETY: nothing else in the program has this name.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    let result = stockade_jailer::begin().map_err(|error| format!("prepare the standard streams: {error}"));
    match result.and_then(|()| run()) {
        Ok(()) => 0,
        Err(message) => {
            eprintln!("stockade-jailer: {message}");
            1
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.split_first() {
        None => Err(USAGE.to_owned()),
        Some((first, rest)) if first == SEALED => run_sealed(rest),
        Some(_) => run_compatible(&program, arguments),
    }
}

fn run_compatible(program: &OsString, arguments: Vec<OsString>) -> Result<(), String> {
    match command_line::parse(arguments).map_err(|error| error.to_string())? {
        Command::Version => print!("{}", version(Path::new(program))),
        Command::Help => println!("{HELP}"),
        Command::Jail(arguments) => compatible::run(&arguments)?,
    }
    Ok(())
}

/// Existing clients look for Firecracker's text when they call the program by that name.
fn version(program: &Path) -> String {
    match program.file_name().is_some_and(|name| name == "jailer") {
        true => format!("Jailer v{FIRECRACKER_VERSION}\n\n"),
        false => format!(
            "stockade-jailer {} (compatible with Firecracker v{FIRECRACKER_VERSION})\n",
            env!("CARGO_PKG_VERSION")
        ),
    }
}

fn run_sealed(arguments: &[OsString]) -> Result<(), String> {
    let [flag, number] = arguments else { return Err(USAGE.to_owned()) };
    let plan = number.to_str().and_then(|number| number.parse().ok()).filter(|_| flag == "--plan-fd");
    let plan: i32 = plan.ok_or_else(|| USAGE.to_owned())?;
    let file = stockade_jailer::inherited(plan).map_err(|error| format!("--plan-fd {plan}: {error}"))?;
    let plan = Plan::read(file.into()).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })?;
    sealed::run(&plan).map_err(|error| format!("control socket {}: {error}", plan.control))
}
