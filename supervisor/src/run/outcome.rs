//! What came of a run, and which exit code says so.

use std::time::Duration;

use serde::Serialize;

/// What came of a run in which Stockade did its part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// The command exited.
    Exited {
        /// Its exit code.
        code: u8,
    },
    /// A signal ended the command.
    Signaled {
        /// Number of the signal.
        signal: u8,
    },
    /// The command could not be started.
    NotStarted {
        /// 127: no such command; 126: it can't be executed; 125: anything else.
        code: u8,
        /// Why, in words.
        reason: String,
    },
    /// The command took too long, and was ended.
    TimedOut {
        /// How long it might have taken.
        limit: Duration,
    },
    /// The caller ended the run.
    Interrupted {
        /// The signal by which it did.
        signal: u8,
    },
}

impl Outcome {
    /// Exit code if a filter killed the vmm.
    pub const VIOLATED: u8 = 123;
    /// Exit code if the time was up.
    pub const TIMED_OUT: u8 = 124;
    /// Exit code if Stockade itself failed.
    pub const FAILED: u8 = 125;
    const SIGNALED: u8 = 128;

    /// Exit code that a shell or `timeout(1)` would give.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited { code } | Self::NotStarted { code, .. } => *code,
            Self::Signaled { signal } | Self::Interrupted { signal } => Self::SIGNALED.saturating_add(*signal),
            Self::TimedOut { .. } => Self::TIMED_OUT,
        }
    }

    /// What the exit code means, if it is not the command's own.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Exited { .. } => None,
            Self::Signaled { signal } => Some(format!("the command was ended by {}", signal_name(*signal))),
            Self::NotStarted { reason, .. } => Some(format!("the command could not be started: {reason}")),
            Self::TimedOut { limit } => Some(format!("the command was still running after {limit:?}, and was ended")),
            Self::Interrupted { signal } => Some(format!("ended by {}", signal_name(*signal))),
        }
    }
}

/// Names of the signals from 1, as on x86_64 Linux (signal(7)).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

fn signal_name(signal: u8) -> String {
    let name = usize::from(signal).checked_sub(1).and_then(|index| SIGNALS.get(index));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("signal {signal} (SIG{name})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shells() {
        let reason = String::from("x: not found");
        let cases = [
            (Outcome::Exited { code: 3 }, 3, false),
            (Outcome::Exited { code: 125 }, 125, false),
            (Outcome::Signaled { signal: 9 }, 137, true),
            (Outcome::NotStarted { code: 127, reason }, 127, true),
            (Outcome::TimedOut { limit: Duration::from_secs(30) }, 124, true),
            (Outcome::Interrupted { signal: 2 }, 130, true),
        ];
        for (outcome, code, explained) in cases {
            assert_eq!(outcome.exit_code(), code);
            assert_eq!(outcome.message().is_some(), explained, "only what is not the command's own is explained");
        }
        assert_eq!(Outcome::Signaled { signal: 9 }.message().unwrap(), "the command was ended by signal 9 (SIGKILL)");
    }
}
