//! Takes the vmm's place in a jail, and makes one attempt there.
//!
//! Who I am: a vmm in a stranger's hands. What I hold: what a vmm would, and a pipe to tell what came of it. What I do is the
//! first of my arguments, one of the modes of the library.
//!
//! | group | what its attempts are after |
//! |---|---|
//! | `files` | read, write, make, remove and execute files of the host: by path, by descriptor, by handle, and by changing the mounts |
//! | `processes` | find, signal, trace, read, write, and slow down processes of the host, the warden among them; start new ones |
//! | `neighbours` | the console, the API, the memory, the control group, the lease and the process of another virtual machine |
//! | `network` | reach or be somebody who listens on the host: TCP, UDP, unix sockets with and without a path, devices |
//! | `kernel` | code of the kernel that a vmm has no use for, and where holes are found: rarely used calls, sockets, ioctls, ABIs |
//! | `privileges` | become root or another user, get capabilities or namespaces, and do what takes them |
//! | `resources` | more memory, processes, descriptors, processor time, disk or console than the share |
//! | `persistence` | outlive the machine: change programs and settings of the host, leave objects behind |
//! | `information` | the host's kernel, hardware, load, processes, paths and files |
//!
//! What no layer hides, and nothing here tries: the processor's model and number, the clocks, and what can be told by timing.

mod attempt;
mod attempts;
mod modes;
mod storms;
mod sys;

use std::process::ExitCode;

use stockade_prisoner::{
    ATTEMPT, COMPATIBLE, EXECUTED, EXECUTED_AS_ROOT, FORGET, INJECTED, KEEP, LIST, NEIGHBOUR, Phase, STORM, VICTIM,
    WORK,
};

use modes::Jail;

/// What a vmm hears when its filters were given up.
const WITHOUT_FILTERS: &str = "--no-seccomp";
/// What is followed by a value that says nothing here: the first is what it is to find before it believes that it is confined.
const WITH_VALUE: [&str; 5] = ["--confined", "--id", "--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us"];
const HELP: &str = "\
Takes the vmm's place in a jail, and tries what a vmm in a stranger's hands would.

usage: stockade-prisoner list                          print the attempts, as JSON
       stockade-prisoner attempt NAME PHASE TARGETS    make one; only a jailer has what that needs

For programs that test jails; people want `stockade doctor --attack`.";

fn main() -> ExitCode {
    sys::keep_heap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (filtered, words) = own_words(&words);
    let done = match words {
        [mode] if *mode == EXECUTED_AS_ROOT => modes::executed_as_root(),
        // One of the targets is this program with the set-user-ID bit, and whoever finds it is to have no use for it.
        _ if sys::is_set_user_id() => Err("only for attempts".into()),
        [mode] if *mode == LIST => modes::list(),
        [mode, name, phase, targets] if *mode == ATTEMPT => {
            phase_named(phase).and_then(|phase| modes::attempt(Jail::Sealed, name, (phase, filtered), targets))
        }
        [mode, name, phase, targets] if *mode == COMPATIBLE => {
            phase_named(phase).and_then(|phase| modes::attempt(Jail::Compatible, name, (phase, true), targets))
        }
        [mode, name, targets, descriptors] if *mode == INJECTED => modes::injected(name, targets, descriptors),
        [mode, program, arguments @ ..] if *mode == KEEP => modes::keep(program, arguments),
        [mode, key] if *mode == VICTIM => modes::victim(key),
        [mode, key] if *mode == FORGET => modes::forget(key),
        [mode] if *mode == NEIGHBOUR => modes::neighbour(),
        [mode, name] if *mode == STORM => modes::storm(name),
        [mode] if *mode == WORK => modes::work(),
        [mode] if *mode == EXECUTED => modes::executed(),
        _ => Err(HELP.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stockade-prisoner: {error}");
            ExitCode::FAILURE
        }
    }
}

fn phase_named(name: &str) -> Result<Phase, Box<dyn std::error::Error>> {
    Ok(Phase::named(name).ok_or("no such phase")?)
}

/// Whether there are filters, and what is left when a jailer's words to a vmm are taken away: whom this program stands for has
/// its own reasons to believe nothing.
fn own_words<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        [first, rest @ ..] if *first == WITHOUT_FILTERS => (false, own_words(rest).1),
        [first, _, rest @ ..] if WITH_VALUE.contains(first) => own_words(rest),
        _ => (true, words),
    }
}
