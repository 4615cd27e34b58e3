//! `PUT /serial`: where the guest's serial console goes.

use serde::{Deserialize, Serialize};

use crate::rate_limiter::TokenBucket;

/// Body of `PUT /serial`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// A file, created if missing, a named pipe, or `fd:NAME`; standard output if absent.
    pub serial_out_path: Option<String>,
    /// Limit on the bytes that the guest may write. What is above waits, and is lost when there is too much of it.
    pub rate_limiter: Option<TokenBucket>,
}
