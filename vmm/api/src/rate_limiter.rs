//! Rate limiters: token buckets for bytes and for operations.

use serde::{Deserialize, Serialize};

/// Two token buckets; an absent one limits nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are operations.
    pub ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// Whether it limits nothing.
    pub const fn is_empty(&self) -> bool {
        self.bandwidth.is_none() && self.ops.is_none()
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// Tokens that it holds.
    pub size: u64,
    /// Tokens that are there once, at the start, on top.
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket gets full.
    pub refill_time: u64,
}
