//! Storms beside a neighbour: whether a machine next door and the host go on while a jail does all the harm to them that it can.
//!
//! A neighbour in a jail of its own ([`neighbour`](crate::neighbour)) does the same work, once alone and once beside each storm. That
//! it gets done and answers, that the host can start programs meanwhile, and that a limit stopped the storm, is what is judged; how
//! long it took is for whoever reads it.

use std::fmt;
use std::io::{PipeReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use serde::Serialize;
use stockade_jailer::plan::{Layer, Tracing};
use stockade_jailer::warden::ProcessEnd;
use stockade_prisoner::{LIST, PIECES, STORM, Storm};

use crate::cell::{Blueprint, Cell, LIMITS, PATIENCE};
use crate::error::AttackError;
use crate::neighbour::{Pace, Work};
use crate::suite::Suite;
use crate::targets::Targets;

/// Programs that the host starts meanwhile.
const PROGRAMS: u32 = 20;

/// What came of a storm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Weather {
    /// The storm.
    pub storm: Storm,
    /// What stopped it, if something did.
    pub stopped_by: Option<String>,
    /// Pieces of work that the neighbour got done beside it, of [`PIECES`].
    pub pieces: u32,
    /// How long that took, milliseconds.
    pub beside_ms: u64,
    /// How long the same took alone, milliseconds.
    pub alone_ms: u64,
    /// Requests that the neighbour's API answered meanwhile, of those that it got; none where there is no KVM.
    pub requests: (u32, u32),
    /// Programs that the host could start meanwhile, of those that it tried to.
    pub programs: (u32, u32),
    /// How long one took, microseconds.
    pub program_us: u64,
}

impl Weather {
    /// Whether host and neighbour stayed usable, and a limit was reached.
    pub fn is_fair(&self) -> bool {
        let all = |(done, tried)| done == tried;
        self.stopped_by.is_some() && self.pieces == PIECES && all(self.requests) && all(self.programs)
    }
}

impl Suite {
    /// Makes each storm, beside a neighbour.
    ///
    /// # Errors
    /// What keeps it from judging.
    pub fn storms(&self) -> Result<Vec<Weather>, AttackError> {
        let targets = Targets::make(&self.name(), &self.jailer(), &self.prisoner())?;
        let (pace, alone) = self.pace(&targets)?;
        Storm::ALL.into_iter().map(|storm| self.storm(storm, &targets, (pace, &alone))).collect()
    }

    fn storm(&self, storm: Storm, targets: &Targets, (pace, alone): (Pace, &Work)) -> Result<Weather, AttackError> {
        let over = AtomicBool::new(false);
        let (stopped_by, worked, programs) = std::thread::scope(|scope| {
            let rage = scope.spawn(|| self.rage(storm, targets, &over));
            let worked = self.work(pace, targets);
            let programs = self.start_programs();
            over.store(true, Ordering::Relaxed);
            let stopped_by =
                rage.join().unwrap_or_else(|_| Err(AttackError::Warden("the storm's thread ended".into())));
            Ok::<_, AttackError>((stopped_by?, worked?, programs))
        })?;
        let (started, took) = programs;
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let program_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / u64::from(PROGRAMS);
        Ok(Weather {
            storm,
            stopped_by,
            pieces: worked.pieces,
            beside_ms: milliseconds(worked.took),
            alone_ms: milliseconds(alone.took),
            requests: worked.requests,
            programs: (started, PROGRAMS),
            program_us,
        })
    }

    /// Has a jail make a storm, and another one when that ends, until it is over. Returns what stopped it.
    fn rage(&self, storm: Storm, targets: &Targets, over: &AtomicBool) -> Result<Option<String>, AttackError> {
        let mut stopped_by = None;
        // One storm at least.
        while stopped_by.is_none() || !over.load(Ordering::Relaxed) {
            let (descriptors, _peer) = targets.descriptors()?;
            let cell = Cell::build(Blueprint {
                name: &self.name(),
                jailer: &self.jailer(),
                program: &self.prisoner(),
                arguments: vec![STORM.to_owned(), storm.name().to_owned()],
                limits: LIMITS,
                // The filter would end a storm before it begins. Everything else is there.
                without: vec![Layer::Seccomp],
                shared_namespaces: Vec::new(),
                tracing: Tracing::Warden,
                descriptors,
            })?;
            let begun = Instant::now();
            while cell.is_alive() {
                if stopped_by.is_none() {
                    stopped_by = said(&cell).or_else(|| throttled(&cell, storm)).or_else(|| kept(&cell, storm));
                }
                let is_enough = over.load(Ordering::Relaxed) && stopped_by.is_some();
                if is_enough || begun.elapsed() > PATIENCE {
                    return Ok(stopped_by);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            stopped_by = match cell.ended()?.end {
                ProcessEnd::Signaled(libc::SIGKILL) => Some("killed for want of memory".to_owned()),
                ProcessEnd::Signaled(libc::SIGXFSZ) => Some("killed for a file that is too large".to_owned()),
                _ => stopped_by,
            };
        }
        Ok(stopped_by)
    }

    /// Starts programs, one after the other. Returns how many ended well, and how long all took.
    fn start_programs(&self) -> (u32, Duration) {
        let begun = Instant::now();
        let mut started = 0;
        for _ in 0..PROGRAMS {
            let mut command = Command::new(self.prisoner());
            let ended = command.arg(LIST).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).status();
            started += u32::from(ended.is_ok_and(|status| status.success()));
        }
        (started, begun.elapsed())
    }
}

/// What a storm says that stopped it.
fn said(cell: &Cell) -> Option<String> {
    let mut report: &PipeReader = cell.report();
    rustix::io::ioctl_fionbio(report, true).ok()?;
    let mut words = [0; 256];
    let length = report.read(&mut words).ok().filter(|length| *length > 0)?;
    Some(String::from_utf8_lossy(words.get(..length)?).into_owned())
}

/// Whether its control group kept processor time from it.
fn throttled(cell: &Cell, storm: Storm) -> Option<String> {
    let counts = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("cpu.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok())
    };
    let count: u64 = cell.cgroups().iter().filter_map(|folder| counts(folder)).sum();
    (storm == Storm::Processor && count > 0).then(|| "processor time, by its control group".to_owned())
}

/// Whether more was written to the console than is kept, and less is there.
fn kept(cell: &Cell, storm: Storm) -> Option<String> {
    let console = cell.console();
    let is_full = console.len() as u64 >= u64::from(crate::cell::RING_BYTES);
    // The ring's cursor: how many bytes were written in all.
    let written = cell.console_bytes()?;
    let is_bounded = console.len() as u64 <= u64::from(crate::cell::RING_BYTES) + 8;
    let stopped = storm == Storm::Console && is_full && is_bounded && written > u64::from(crate::cell::RING_BYTES);
    stopped.then(|| format!("{} KiB are kept of it", crate::cell::RING_BYTES >> 10))
}

/// Storms as people read them.
#[derive(Debug)]
pub struct Forecast<'a>(pub &'a [Weather]);

impl fmt::Display for Forecast<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "storm of",
            "stopped by",
            "neighbour's work: alone",
            "beside it",
            "requests answered",
            "programs started",
            "each",
        ]);
        for weather in self.0 {
            let ((started, tried), (answered, asked)) = (weather.programs, weather.requests);
            table.add_row([
                weather.storm.name().to_owned(),
                weather.stopped_by.clone().unwrap_or_else(|| "nothing".to_owned()),
                format!("{} ms", weather.alone_ms),
                format!("{} ms, {} of {PIECES} pieces", weather.beside_ms, weather.pieces),
                format!("{answered} of {asked}"),
                format!("{started} of {tried}"),
                format!("{:.1} ms", weather.program_us as f64 / 1000.0),
            ]);
        }
        writeln!(formatter, "{table}")
    }
}
