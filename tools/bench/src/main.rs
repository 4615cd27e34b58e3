//! Measures how fast a vmm starts a guest and how much memory it takes, beside another Firecracker-compatible one.
//!
//! The guest is one page: it writes a byte to the serial port and halts. Each round starts one such guest with every
//! contestant, configured by the same requests, and the order changes from round to round, so that what else the machine does
//! hits all of them. What is compared is read back: a table says which system call filters each had in force.
//!
//! | module | job |
//! |---|---|
//! | [`contestant`] | a vmm, alone or in a jail, and how it is started |
//! | [`sealed`] | Stockade's jail |
//! | [`client`] | requests to its API |
//! | [`round`] | one start, timed step by step |
//! | [`footprint`] | memory of a running vmm, and its filters |
//! | [`alone`] | jailers alone, with [`probe`] in the vmm's place |
//! | [`daemon`] | many virtual machines of one daemon at once |
//! | [`report`] | medians and ratios, as tables and as JSON |
#![forbid(unsafe_code)]

mod alone;
mod client;
mod contestant;
mod daemon;
mod error;
mod footprint;
mod probe;
mod report;
mod round;
mod sealed;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::contestant::{Contestant, Jail};
use crate::error::{Error, at};
use crate::report::Report;

/// Measures start time and memory of a vmm, beside another Firecracker-compatible one.
#[derive(Debug, Parser)]
#[command(name = "stockade-bench", version)]
struct Arguments {
    /// The vmm
    #[arg(long, value_name = "PATH", default_value = "target/dist/stockade-vmm")]
    vmm: PathBuf,
    /// Its jailer: measures the vmm in a sealed jail, and in a chroot jail as Firecracker's, as well, which needs root
    #[arg(long, value_name = "PATH")]
    jailer: Option<PathBuf>,
    /// A vmm to compare it with
    #[arg(long, value_name = "PATH")]
    peer_vmm: Option<PathBuf>,
    /// The jailer of that: measures it in a jail as well, which needs root
    #[arg(long, value_name = "PATH", requires = "peer_vmm")]
    peer_jailer: Option<PathBuf>,
    /// Further argument of the vmm; may be repeated
    #[arg(long = "argument", value_name = "ARGUMENT", allow_hyphen_values = true)]
    arguments: Vec<String>,
    /// Further argument of the peer, for instance --no-seccomp; may be repeated
    #[arg(long = "peer-argument", value_name = "ARGUMENT", allow_hyphen_values = true, requires = "peer_vmm")]
    peer_arguments: Vec<String>,
    /// Measure the jailers alone: 1 and 10 at once, on a host with few mounts and with 300 more
    #[arg(long, requires = "jailer")]
    jailers_alone: bool,
    /// Measure a daemon with many virtual machines instead: stockaded, with Stockade's other programs beside it; needs root
    #[arg(long, value_name = "PATH", conflicts_with_all = ["jailer", "peer_vmm"])]
    daemon: Option<PathBuf>,
    /// How many virtual machines the daemon keeps
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..), requires = "daemon")]
    vms: u32,
    /// How many of them are started at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..), requires = "daemon")]
    at_once: u32,
    /// How often each is started
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the result as JSON as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stockade-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let (text, json) = match (&arguments.daemon, &arguments.jailer) {
        (Some(daemon), _) => {
            let report = daemon::measure(&daemon::Load { daemon, vms: arguments.vms, at_once: arguments.at_once })?;
            (report.to_string(), report.to_json())
        }
        (None, Some(jailer)) if arguments.jailers_alone => {
            let contestants = alone::contestants(jailer, arguments.peer_jailer.as_deref())?;
            let report = alone::measure(&contestants, &arguments.vmm, arguments.rounds)?;
            (report.to_string(), report.to_json())
        }
        _ => {
            let report = Report::new(measure(&contestants(arguments)?, arguments.rounds)?);
            (report.to_string(), report.to_json())
        }
    };
    println!("{text}");
    arguments.json.as_ref().map_or(Ok(()), |file| std::fs::write(file, json).map_err(at("write", file)))
}

/// The vmm and its peer, alone and then in a jail.
fn contestants(arguments: &Arguments) -> Result<Vec<Contestant>, Error> {
    let own = |jail| Contestant::new("stockade", &arguments.vmm, &arguments.arguments, jail);
    let mut contestants = vec![own(None)?];
    if let Some(jailer) = &arguments.jailer {
        contestants.push(own(Some(Jail::Sealed(jailer.clone())))?);
        contestants.push(own(Some(Jail::Chroot(jailer.clone())))?);
    }
    if let Some(vmm) = &arguments.peer_vmm {
        let peer = |jail| Contestant::new("peer", vmm, &arguments.peer_arguments, jail);
        contestants.push(peer(None)?);
        if let Some(jailer) = &arguments.peer_jailer {
            contestants.push(peer(Some(Jail::Chroot(jailer.clone())))?);
        }
    }
    Ok(contestants)
}

/// Runs the rounds, and returns those of each contestant.
fn measure(contestants: &[Contestant], rounds: u32) -> Result<Vec<(&Contestant, Vec<round::Round>)>, Error> {
    let scratch = tempfile::Builder::new().prefix("stockade-bench-").tempdir();
    let scratch = scratch.map_err(at("make a folder in", &std::env::temp_dir()))?;
    let mut results: Vec<(&Contestant, Vec<round::Round>)> = contestants.iter().map(|one| (one, Vec::new())).collect();
    // The first start reads the programs into the page cache, and is not counted.
    for (contestant, _) in &results {
        round::run(contestant, scratch.path())?;
    }
    for number in 0..rounds {
        let mut order: Vec<_> = results.iter_mut().collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for (contestant, done) in order {
            done.push(round::run(contestant, scratch.path())?);
        }
    }
    Ok(results)
}
