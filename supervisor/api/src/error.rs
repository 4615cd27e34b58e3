//! Why something was not done: a stable code for programs, a message and a remedy for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[error("{message}{}", if remedy.is_empty() { String::new() } else { format!("; {remedy}") })]
pub struct Error {
    /// What kind of failure it is; stable.
    pub code: ErrorCode,
    /// What failed, in words.
    pub message: String,
    /// What to do about it; empty if there is nothing.
    pub remedy: String,
}

impl Error {
    /// A failure with what to do about it.
    pub fn new(code: ErrorCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $code:ident = $name:literal, $status:literal;)*) => {
        /// Kinds of failures. Their names never change; there may be more.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[doc = $doc])* $code,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// Its name, as in JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $name),* }
            }

            /// What it means, in a sentence or two.
            pub fn description(self) -> &'static str {
                match self { $(Self::$code => concat!($($doc),*).trim_start()),* }
            }

            /// The status of an HTTP response with it.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$code => $status),* }
            }
        }
    };
}

codes! {
    /// There is no such virtual machine, or the caller may not know of it.
    NotFound = "not_found", 404;
    /// The caller may not do that.
    NotPermitted = "not_permitted", 403;
    /// The name is taken.
    Exists = "exists", 409;
    /// It runs already, or is about to.
    AlreadyRunning = "already_running", 409;
    /// It does not run.
    NotRunning = "not_running", 409;
    /// It is stopping already.
    Stopping = "stopping", 409;
    /// It is paused already.
    AlreadyPaused = "already_paused", 409;
    /// It is not paused.
    NotPaused = "not_paused", 409;
    /// The template does not exist.
    TemplateNotFound = "template_not_found", 404;
    /// A name that can't be used.
    InvalidName = "invalid_name", 400;
    /// Another value that can't be used.
    InvalidValue = "invalid_value", 400;
    /// The request is no request.
    InvalidRequest = "invalid_request", 400;
    /// There is nothing to boot from.
    NothingToBoot = "nothing_to_boot", 409;
    /// It needs something that this Stockade does not have yet.
    Unsupported = "unsupported", 501;
    /// A file can't be opened with the caller's rights.
    FileNotUsable = "file_not_usable", 403;
    /// A file is in use by another virtual machine.
    FileInUse = "file_in_use", 409;
    /// A disk, address or interface belongs to the template.
    ResourceInUse = "resource_in_use", 409;
    /// It was restarted too often in a short time.
    RestartedTooQuickly = "restarted_too_quickly", 429;
    /// The owner has as much as the configuration allows.
    QuotaExceeded = "quota_exceeded", 429;
    /// The host has not enough memory.
    NotEnoughMemory = "not_enough_memory", 503;
    /// The host has not enough processors.
    NotEnoughCpus = "not_enough_cpus", 503;
    /// Every number was given out.
    IdsExhausted = "ids_exhausted", 503;
    /// The host's part of the start failed.
    StartFailed = "start_failed", 500;
    /// The vmm did not do it.
    VmmFailed = "vmm_failed", 500;
    /// No agent runs in the guest.
    NoAgent = "no_agent", 409;
    /// The guest's agent does not run yet; it will once the guest has booted.
    AgentNotReady = "agent_not_ready", 503;
    /// It ended before it was done.
    Ended = "ended", 409;
    /// vm.conf can't be used; nothing was changed.
    InvalidConfiguration = "invalid_configuration", 400;
    /// Events before that cursor are not kept any more.
    CursorTooOld = "cursor_too_old", 410;
    /// Too many connections or requests at once.
    TooManyRequests = "too_many_requests", 429;
    /// A part of the daemon was restarted; whether the request was carried out is unknown.
    Interrupted = "interrupted", 503;
    /// The daemon is going down.
    ShuttingDown = "shutting_down", 503;
    /// A fault of the daemon.
    Internal = "internal", 500;
    /// The API has no such path.
    UnknownPath = "unknown_path", 404;
    /// The path is there, but not with this method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The request wants a stream, which the connection has to become (`Upgrade`).
    UpgradeRequired = "upgrade_required", 426;
    /// Somebody else types at the console.
    ConsoleInUse = "console_in_use", 409;
    /// The request did not come in time.
    RequestTimeout = "request_timeout", 408;
    /// The body is too large.
    BodyTooLarge = "body_too_large", 413;
    /// The body is no JSON.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// The request's line and headers are too large.
    HeadTooLarge = "head_too_large", 431;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_that_they_are_encoded_by() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert!((400..600).contains(&code.http_status()), "{code}");
            assert!(code.description().ends_with('.'), "{code}");
        }
    }
}
