//! `PUT /entropy`: the virtio entropy device.

use serde::{Deserialize, Serialize};

use crate::rate_limiter::RateLimiter;

/// Body of `PUT /entropy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits on the guest's use of it.
    pub rate_limiter: Option<RateLimiter>,
}

impl Entropy {
    /// Checks what goes beyond the shape.
    pub fn validate(&self) -> Result<(), EntropyError> {
        match self.rate_limiter {
            Some(limiter) if !limiter.is_empty() => Err(EntropyError::RateLimiter),
            _ => Ok(()),
        }
    }
}

/// Why an entropy device is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntropyError {
    /// Rate limiter.
    #[error("rate_limiter: the entropy device can't be limited yet; remove it, or limit the vmm's cgroup")]
    RateLimiter,
}
