//! The machine next door to a storm: a real vmm with a guest that works, and clients of its API. Where the host has no KVM, a program
//! takes its place that does the like.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use stockade_jailer::plan::Tracing;
use stockade_prisoner::{PIECES, WORK, descriptor};

use crate::cell::{Blueprint, Cell, LIMITS_OF_OTHERS, PATIENCE};
use crate::error::{AttackError, Step};
use crate::machine;
use crate::suite::Suite;
use crate::targets::Targets;

/// How long all pieces are to take alone, at least: long enough for a storm to be felt.
const LEAST: Duration = Duration::from_millis(300);
const FEWEST_ROUNDS: u32 = 2_000;
const MOST_ROUNDS: u32 = 100_000_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const ANSWER: &[u8; 12] = b"HTTP/1.1 200";

/// How much work a piece of it is: rounds of the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace(u32);

/// What got done.
#[derive(Debug)]
pub(crate) struct Work {
    /// Of [`PIECES`].
    pub(crate) pieces: u32,
    /// How long that took.
    pub(crate) took: Duration,
    /// Requests that were answered, and that were made.
    pub(crate) requests: (u32, u32),
}

impl Suite {
    /// Finds out what a piece of work is for a guest of this host, and what the neighbour gets done alone.
    pub(crate) fn pace(&self, targets: &Targets) -> Result<(Pace, Work), AttackError> {
        let mut pace = Pace(FEWEST_ROUNDS);
        loop {
            let work = self.work(pace, targets)?;
            if work.took >= LEAST || pace.0 >= MOST_ROUNDS || !self.has_machines() {
                return Ok((pace, work));
            }
            pace = Pace(pace.0.saturating_mul(10));
        }
    }

    /// Has the neighbour do its work.
    pub(crate) fn work(&self, pace: Pace, targets: &Targets) -> Result<Work, AttackError> {
        if self.has_machines() { self.work_of_guest(pace, targets) } else { self.work_of_program() }
    }

    fn work_of_guest(&self, Pace(rounds): Pace, targets: &Targets) -> Result<Work, AttackError> {
        let name = self.name();
        let (mut descriptors, _peer) = targets.descriptors()?;
        let (arguments, more) = machine::sealed_vmm(&name, &one_page_guest::worker(rounds))?;
        descriptors.extend(more);
        let cell = Cell::build(Blueprint {
            name: &name,
            jailer: &self.jailer(),
            program: &self.vmm(),
            arguments,
            limits: LIMITS_OF_OTHERS,
            without: Vec::new(),
            shared_namespaces: Vec::new(),
            tracing: Tracing::Warden,
            descriptors,
        })?;
        machine::await_guest(&cell)?;
        let first = cell.console_bytes().unwrap_or(0);
        let (begun, mut pieces, mut requests) = (Instant::now(), 0, (0, 0));
        while pieces < PIECES && cell.is_alive() && begun.elapsed() < PATIENCE {
            let written = cell.console_bytes().unwrap_or(0).saturating_sub(first);
            let done = u32::try_from(written).unwrap_or(PIECES).min(PIECES);
            // One request for each look at which something was new, so that they come as the work goes on.
            if done > pieces {
                pieces = done;
                requests.1 += 1;
                requests.0 += u32::from(ask(&name).is_some());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(Work { pieces, took: begun.elapsed(), requests })
    }

    fn work_of_program(&self) -> Result<Work, AttackError> {
        let (theirs, mut ours) = UnixStream::pair().step("make a socket")?;
        let _cell = Cell::build(Blueprint {
            name: &self.name(),
            jailer: &self.jailer(),
            program: &self.prisoner(),
            arguments: vec![WORK.to_owned()],
            limits: LIMITS_OF_OTHERS,
            without: Vec::new(),
            shared_namespaces: Vec::new(),
            tracing: Tracing::Warden,
            descriptors: vec![(descriptor::STREAM, OwnedFd::from(theirs))],
        })?;
        ours.set_read_timeout(Some(PATIENCE)).step("wait for a neighbour")?;
        let begun = Instant::now();
        ours.write_all(b"x").step("wake a neighbour")?;
        let mut pieces = 0;
        while pieces < PIECES && ours.read_exact(&mut [0]).is_ok() {
            pieces += 1;
        }
        Ok(Work { pieces, took: begun.elapsed(), requests: (0, 0) })
    }
}

/// Asks the vmm of this name something, on a connection of its own. Nothing if it does not answer.
fn ask(name: &str) -> Option<()> {
    let mut stream = UnixStream::connect_addr(&machine::api_of(name).ok()?).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(REQUEST).ok()?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).ok()?;
    (answer == *ANSWER).then_some(())
}
