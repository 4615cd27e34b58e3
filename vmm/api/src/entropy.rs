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
