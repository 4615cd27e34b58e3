//! Why a verb did not do what it was to do: one line or one document, and an exit code.

use std::io;

use serde::Serialize;
use stockade_api::ErrorCode;
use stockade_client::ClientError;
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::{chain, printable};

use crate::run::say;

/// Exit codes beside that of `stockade run`, as `--help` explains them.
pub mod exit {
    /// It was tried, and failed.
    pub const FAILED: u8 = 1;
    /// There is no such virtual machine.
    pub const NOT_FOUND: u8 = 4;
    /// The caller may not.
    pub const NOT_PERMITTED: u8 = 5;
    /// It is as it was to be.
    pub const NOTHING_TO_DO: u8 = 6;
    /// A state, a name or a file is in the way.
    pub const IN_THE_WAY: u8 = 7;
    /// A limit.
    pub const LIMIT: u8 = 8;
    /// Not there yet.
    pub const UNSUPPORTED: u8 = 9;
    /// Something of the request can't be used.
    pub const UNUSABLE: u8 = 10;
    /// There is no daemon.
    pub const NO_DAEMON: u8 = 11;
    /// Nobody knows whether it was done.
    pub const UNKNOWN: u8 = 12;
}

/// What `--json` prints of an error, besides the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The daemon's code, or one of the command line's own.
    pub code: &'static str,
    /// What failed.
    pub message: String,
    /// What to do about it; empty if there is nothing.
    pub remedy: String,
    /// The exit code.
    #[serde(skip)]
    pub exit: u8,
}

/// How an error is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line, or a table.
    Text,
    /// A document.
    Json,
}

impl Failure {
    /// An error of the command line's own.
    pub fn new(exit: u8, code: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into(), exit }
    }

    /// Something on the caller's side did not work.
    pub fn own(what: &str, source: &io::Error) -> Self {
        Self::new(Outcome::FAILED, "failed", format!("{what}: {source}"), "")
    }

    /// Message and remedy as one line.
    pub fn text(&self) -> String {
        let Self { message, remedy, .. } = self;
        if remedy.is_empty() { message.clone() } else { format!("{message}; {remedy}") }
    }

    /// Says it on standard error, and returns the exit code.
    pub fn report(&self, format: Format) -> u8 {
        match format {
            Format::Json => crate::run::write_error_line(&serde_json::to_string(self).unwrap_or_default()),
            Format::Text => say(&printable(&self.text())),
        }
        self.exit
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        const LOOK: &str = "ask with `stockade status` whether it was done";
        let message = chain(&error);
        match error {
            ClientError::Refused(error) => error.into(),
            ClientError::NotRunning { .. } => {
                Self::new(exit::NO_DAEMON, "daemon_not_running", message, "start it, or name its socket with --socket")
            }
            ClientError::NotPermitted { .. } => {
                Self::new(exit::NOT_PERMITTED, "not_permitted", message, "join the group of the socket, or be root")
            }
            ClientError::Connect { .. } => Self::new(
                exit::NO_DAEMON,
                "daemon_not_reachable",
                message,
                "name the socket of stockaded with --socket",
            ),
            ClientError::HungUp(_) => Self::new(exit::UNKNOWN, "interrupted", message, LOOK),
            ClientError::Unusable(_) => Self::new(exit::UNKNOWN, "unusable_answer", message, LOOK),
            _ => Self::new(Outcome::FAILED, "failed", message, ""),
        }
    }
}

impl From<stockade_api::Error> for Failure {
    fn from(error: stockade_api::Error) -> Self {
        Self::new(exit_code(error.code), error.code.name(), error.message, error.remedy)
    }
}

/// The exit code that stands for one of the daemon's codes.
fn exit_code(code: ErrorCode) -> u8 {
    use ErrorCode as Code;
    match code {
        Code::StartFailed
        | Code::VmmFailed
        | Code::Internal
        | Code::UnknownPath
        | Code::MethodNotAllowed
        | Code::UnsupportedMediaType
        | Code::UpgradeRequired
        | Code::RequestTimeout => exit::FAILED,
        Code::NotFound | Code::TemplateNotFound => exit::NOT_FOUND,
        Code::NotPermitted => exit::NOT_PERMITTED,
        Code::AlreadyRunning
        | Code::NotRunning
        | Code::AlreadyPaused
        | Code::NotPaused
        | Code::Stopping
        | Code::Ended
        | Code::NoAgent
        | Code::AgentNotReady
        | Code::Exists
        | Code::FileInUse
        | Code::ConsoleInUse
        | Code::ResourceInUse => exit::IN_THE_WAY,
        Code::RestartedTooQuickly
        | Code::QuotaExceeded
        | Code::NotEnoughMemory
        | Code::NotEnoughCpus
        | Code::IdsExhausted
        | Code::TooManyRequests => exit::LIMIT,
        Code::Unsupported => exit::UNSUPPORTED,
        Code::InvalidName
        | Code::InvalidValue
        | Code::InvalidRequest
        | Code::NothingToBoot
        | Code::FileNotUsable
        | Code::BodyTooLarge
        | Code::HeadTooLarge
        | Code::InvalidConfiguration
        | Code::CursorTooOld => exit::UNUSABLE,
        Code::ShuttingDown => exit::NO_DAEMON,
        Code::Interrupted => exit::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_daemon_has_an_exit_code_that_the_help_explains() {
        let explained: Vec<u8> = crate::arguments::EXIT_CODES
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        for code in ErrorCode::ALL {
            let exit = exit_code(*code);
            assert!(exit != 0 && explained.contains(&exit), "{code} ends with {exit}");
        }
        for own in [exit::NOTHING_TO_DO, exit::NO_DAEMON, exit::UNKNOWN, Outcome::FAILED] {
            assert!(explained.contains(&own), "{own}");
        }
    }
}
