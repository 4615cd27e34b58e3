//! What the agent has to say where no host hears it: lines on its standard error, the guest's console.

use std::io::Write;

/// Writes `what` as a line. A console that takes nothing is no reason for the guest to end.
pub fn say(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "stockade-agent: {what}");
}
