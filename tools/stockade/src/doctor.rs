//! `stockade doctor --attack`: the hostile suite, on the operator's own host.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use stockade_attack::{AttackError, Condition, Deviation, Known, Matrix, Suite, Summary, Verdict};
use stockade_confinement::Layer;
use stockade_supervisor::installation::{Installation, InstallationError};
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::chain;

use crate::arguments::DoctorArguments;
use crate::run::say;

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

/// What `--json` prints of the matrix: an attempt that only this layer stops.
#[derive(Serialize)]
struct SucceededWithout<'a> {
    layer: Layer,
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

/// Returns how many attempts succeeded with every layer on.
fn attack(arguments: &DoctorArguments) -> Result<usize, DoctorError> {
    let installation = arguments.binaries.clone().map_or_else(Installation::find, |path| Ok(Installation::at(path)))?;
    let known = Known::read().map_err(DoctorError::Known)?;
    let name = arguments.name.as_ref().map_or_else(|| format!("doctor-{}", std::process::id()), ToString::to_string);
    let suite = Suite::open(&installation, &name)?;
    let mut conditions = Condition::every_phase();
    if arguments.matrix {
        conditions.extend(Condition::every_layer());
    }
    let bar = ProgressBar::new(0).with_message("attempts");
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} {msg}") {
        bar.set_style(style);
    }
    let verdicts = suite.run(&conditions, &|done, total| {
        bar.set_length(u64::try_from(total).unwrap_or(u64::MAX));
        bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
    });
    bar.finish_and_clear();
    let verdicts = verdicts?;
    let mut output = io::stdout().lock();
    if arguments.json {
        writeln!(output, "{}", json(&suite, &verdicts, &known)?)?;
    } else {
        write!(output, "{}", Summary::new(suite.attempts(), &verdicts))?;
        if arguments.matrix {
            write!(output, "\n{}", Matrix::new(suite.attempts(), &verdicts, &known))?;
            write_unknown(&mut output, &known.deviations(&verdicts))?;
        }
    }
    output.flush()?;
    Ok(Summary::new(suite.attempts(), &verdicts).failures().count())
}

fn json(suite: &Suite, verdicts: &[Verdict], known: &Known) -> Result<String, DoctorError> {
    let single = Matrix::new(suite.attempts(), verdicts, known).single();
    let single: Vec<_> =
        single.iter().map(|(attempt, layer)| SucceededWithout { layer: *layer, attempt: &attempt.name }).collect();
    let report = serde_json::json!({
        "attempts": suite.attempts(),
        "verdicts": verdicts,
        "succeeded_without": single,
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
