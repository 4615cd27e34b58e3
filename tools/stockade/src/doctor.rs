//! `stockade doctor --attack`: the hostile suite, on the operator's own host.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use stockade_attack::{
    AttackError, Compromise, Condition, Deviation, Forecast, Known, Matrix, Mode, Part, Suite, Summary, Verdict,
    Weather,
};
use stockade_supervisor::installation::{Installation, InstallationError};
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::chain;

use crate::arguments::DoctorArguments;
use crate::run::say;

/// The role of the daemon that parses what clients write.
const CONTROL: &str = "control";
/// Exit code when an attempt succeeded.
const SUCCEEDED: u8 = 3;

/// Nothing is known of this host's jails, or it could not be said.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error(transparent)]
    Attack(#[from] AttackError),
    #[error("read what is known of the layers")]
    Known(#[source] serde_json::Error),
    #[error("write to standard output")]
    Write(#[from] io::Error),
}

/// What `--json` prints of the matrix: an attempt that only this part of a jail stops.
#[derive(Serialize)]
struct SucceededWithout<'a> {
    mode: Mode,
    part: Part,
    attempt: &'a str,
}

/// Attacks as `arguments` ask for, and returns the exit code.
pub fn execute(arguments: &DoctorArguments) -> u8 {
    match attack(arguments) {
        Ok(0) => 0,
        Ok(_) => SUCCEEDED,
        Err(error) => {
            say(&chain(&error));
            Outcome::FAILED
        }
    }
}

/// Returns how many attempts succeeded with every layer on, though they should not, and how many storms did harm.
fn attack(arguments: &DoctorArguments) -> Result<usize, DoctorError> {
    let installation = arguments.binaries.clone().map_or_else(Installation::find, |path| Ok(Installation::at(path)))?;
    let known = Known::read().map_err(DoctorError::Known)?;
    let name = arguments.name.as_ref().map_or_else(|| format!("doctor-{}", std::process::id()), ToString::to_string);
    let suite = Suite::open(&installation, &name)?;
    let modes: Vec<_> = arguments.mode.map_or_else(|| Mode::ALL.to_vec(), |mode| vec![mode]);
    let conditions: Vec<_> = modes.iter().flat_map(|mode| suite.conditions(*mode)).collect();
    let matrix = modes.iter().flat_map(|mode| Condition::every_part(*mode)).filter(|_| arguments.matrix);
    let conditions: Vec<_> = conditions.into_iter().chain(matrix).collect();
    let bar = ProgressBar::new(0).with_message("attempts");
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} {msg}") {
        bar.set_style(style);
    }
    let progress = |done, total| {
        bar.set_length(u64::try_from(total).unwrap_or(u64::MAX));
        bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
    };
    let has_roles = arguments.mode.is_none() && installation.daemon().exists();
    let verdicts = suite.run(&conditions, &progress);
    let roles = if has_roles { suite.compromise(&installation, CONTROL, &progress) } else { Ok(Vec::new()) };
    bar.finish_and_clear();
    let (verdicts, roles) = (verdicts?, roles?);
    let weather = suite.storms()?;
    let mut output = io::stdout().lock();
    let of_mode = |mode: &Mode| Summary::new(*mode, suite.attempts(), &verdicts, &known);
    if arguments.json {
        writeln!(output, "{}", json(&suite, &modes, &verdicts, &roles, &weather, &known)?)?;
    } else {
        for mode in &modes {
            writeln!(output, "{}", of_mode(mode))?;
            if arguments.matrix {
                writeln!(output, "{}", Matrix::new(*mode, suite.attempts(), &verdicts, &known))?;
            }
        }
        if has_roles {
            write_roles(&mut output, &roles, &known)?;
        }
        writeln!(output, "{}", Forecast(&weather))?;
        if !suite.has_machines() {
            writeln!(output, "No thread of a vmm was taken over: this host has no /dev/kvm.")?;
        }
        if arguments.matrix {
            write_unknown(&mut output, &known.deviations(&verdicts))?;
        }
    }
    output.flush()?;
    let foul = weather.iter().filter(|weather| !weather.is_fair()).count();
    let surprises = known.surprises(&roles).len();
    Ok(modes.iter().map(|mode| of_mode(mode).failures().count()).sum::<usize>() + foul + surprises)
}

/// What came of the attempts from a role of the daemon.
fn write_roles(output: &mut impl Write, found: &[Compromise], known: &Known) -> io::Result<()> {
    let succeeded = found.iter().filter(|one| one.outcome.is_success()).count();
    writeln!(
        output,
        "From the daemon's process {CONTROL}, taken over: {} attempts, {succeeded} succeeded",
        found.len()
    )?;
    for one in found {
        match known.spared(one) {
            Some(spared) => writeln!(output, "  {one}\n    {}", spared.reason)?,
            None if !one.outcome.is_failure() => writeln!(output, "  {one}")?,
            None => {}
        }
    }
    writeln!(output)
}

fn json(
    suite: &Suite,
    modes: &[Mode],
    verdicts: &[Verdict],
    roles: &[Compromise],
    weather: &[Weather],
    known: &Known,
) -> Result<String, DoctorError> {
    let single = |mode: &Mode| {
        let mode = *mode;
        let single = Matrix::new(mode, suite.attempts(), verdicts, known).single();
        single.into_iter().map(move |(attempt, part)| SucceededWithout { mode, part, attempt: &attempt.name })
    };
    let report = serde_json::json!({
        "attempts": suite.attempts(),
        "verdicts": verdicts,
        "roles": roles,
        "storms": weather,
        "succeeded_without": modes.iter().flat_map(single).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&report).map_err(io::Error::from)?)
}

/// What differs from what the project knows of its layers: it depends on the host, or is worth a report.
fn write_unknown(output: &mut impl Write, deviations: &[Deviation]) -> io::Result<()> {
    if !deviations.is_empty() {
        writeln!(output, "\nNot as it is known, please report it:")?;
    }
    deviations.iter().try_for_each(|deviation| writeln!(output, "  {deviation}"))
}
