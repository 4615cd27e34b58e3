//! `PUT /serial`: where the guest's serial console goes.

use serde::{Deserialize, Serialize};

use crate::rate_limiter::TokenBucket;

/// Body of `PUT /serial`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// A file, created if missing, a named pipe, or `fd:NAME`; standard output if absent.
    pub serial_out_path: Option<String>,
    /// Limit on the bytes that the guest may write. What is above is lost, and counted.
    pub rate_limiter: Option<TokenBucket>,
}

impl Serial {
    /// Checks what goes beyond the shape.
    pub fn validate(&self) -> Result<(), SerialError> {
        match self.rate_limiter {
            Some(_) => Err(SerialError::RateLimiter),
            None => Ok(()),
        }
    }
}

/// Why a serial console is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Rate limiter.
    #[error("rate_limiter: the serial console can't be limited yet; remove it, its output is bounded anyway")]
    RateLimiter,
}
