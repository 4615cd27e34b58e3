//! How much of its time a warden gives to stops of its vmm.
//!
//! A stopped thread waits for its tracer, and uses no processor time of its own then, so a vmm that stops itself all the time
//! (by faults that it handles, for instance) would use its warden's, which no control group limits. What a vmm that is
//! itself needs is far less than [`BURST`]: two stops for each thread that it starts, one for each that ends, and one for
//! each time that a vCPU is interrupted.

use std::time::{Duration, Instant};

/// Stops that are handled at once.
const BURST: u32 = 1024;
/// Stops in a millisecond after that. Each takes some microseconds.
const PER_MILLISECOND: u32 = 2;
/// How long is waited when there were too many.
const PAUSE: Duration = Duration::from_millis(10);

/// A bucket of tokens, one for each stop.
#[derive(Debug)]
pub(crate) struct Pace {
    tokens: u32,
    filled_at: Instant,
}

impl Pace {
    /// A full one.
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled_at: now }
    }

    /// Whether one more stop may be handled now.
    pub(crate) fn step(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at).as_millis();
        let earned = u32::try_from(elapsed).unwrap_or(u32::MAX).saturating_mul(PER_MILLISECOND);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.filled_at = now;
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }

    /// How long to look at nothing, if there were too many stops.
    pub(crate) fn pause(&self) -> Option<Duration> {
        (self.tokens == 0).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_slowed_down_and_ends() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..BURST {
            assert_eq!(pace.pause(), None);
            assert!(pace.step(start));
        }
        assert_eq!(pace.pause(), Some(PAUSE));
        assert!(!pace.step(start));
        let later = start + PAUSE;
        let handled = std::iter::repeat_with(|| pace.step(later)).take_while(|may| *may).count();
        assert_eq!(handled, 20);
        assert!(pace.step(later + Duration::from_secs(3600)));
        assert_eq!(pace.tokens, BURST - 1);
    }
}
