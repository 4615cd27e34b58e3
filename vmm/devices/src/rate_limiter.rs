//! Token buckets with Firecracker's meaning: `size` tokens that refill evenly in `refill_time`, and a `one_time_burst`
//! that comes first and is never refilled.
//!
//! A [`RateLimiter`] is made before the filters are on, with a timerfd that becomes readable when it's worth trying again.
//! Syscalls: `clock_gettime`, `timerfd_settime`, `read` of the timer.

use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

/// What a bucket holds and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Tokens in a full bucket: bytes or operations.
    pub size: u64,
    /// Tokens on top at the start, used first, never refilled.
    pub one_time_burst: u64,
    /// Time in which an empty bucket becomes full, in milliseconds.
    pub refill_time_ms: u64,
}

/// Limits of a device. A bucket of size or refill time 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimiterConfig {
    /// Limit of bytes.
    pub bandwidth: Option<BucketConfig>,
    /// Limit of operations.
    pub ops: Option<BucketConfig>,
}

/// Why a limiter can't be built.
#[derive(Debug, thiserror::Error)]
#[error("create timer of rate limiter: {0}")]
pub struct RateLimiterError(#[source] std::io::Error);

/// One bucket. Time is given from outside.
#[derive(Debug, Clone)]
struct TokenBucket {
    size: u64,
    burst: u64,
    budget: u64,
    refill: Duration,
    /// Until when the refill is accounted for.
    updated: Instant,
}

impl TokenBucket {
    fn new(config: BucketConfig, now: Instant) -> Option<Self> {
        let refill = Duration::from_millis(config.refill_time_ms);
        (config.size > 0 && !refill.is_zero()).then_some(Self {
            size: config.size,
            burst: config.one_time_burst,
            budget: config.size,
            refill,
            updated: now,
        })
    }

    fn replenish(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated);
        let tokens = elapsed.as_nanos().saturating_mul(u128::from(self.size)).checked_div(self.refill.as_nanos());
        let tokens = tokens.unwrap_or(0).min(u128::from(self.size));
        if tokens == 0 {
            return;
        }
        let tokens = u64::try_from(tokens).unwrap_or(self.size);
        self.budget = self.budget.saturating_add(tokens).min(self.size);
        // The time of a part of a token is kept for the next call.
        let accounted = if tokens == self.size { elapsed } else { self.time_of(tokens) };
        self.updated = self.updated.checked_add(accounted).unwrap_or(now).min(now);
    }

    /// How long `tokens` take to come in, rounded up.
    fn time_of(&self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens).saturating_mul(self.refill.as_nanos()).div_ceil(u128::from(self.size).max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn available(&self) -> u64 {
        self.burst.saturating_add(self.budget)
    }

    /// How long to wait before [`take`](Self::take); nothing if the tokens are there. More than the bucket can ever hold
    /// is given at once, and waited for afterwards, as nothing else would ever let it through.
    fn wait_for(&self, tokens: u64) -> Option<Duration> {
        let missing = tokens.saturating_sub(self.available());
        (missing > 0 && tokens <= self.size).then(|| self.time_of(missing))
    }

    /// Takes tokens. Returns for how long to take no more, if there were not enough.
    fn take(&mut self, tokens: u64) -> Option<Duration> {
        let from_burst = tokens.min(self.burst);
        self.burst = self.burst.saturating_sub(from_burst);
        let tokens = tokens.saturating_sub(from_burst);
        let missing = tokens.saturating_sub(self.budget);
        self.budget = self.budget.saturating_sub(tokens);
        (missing > 0).then(|| self.time_of(missing))
    }
}

/// Limits on bytes and operations of one device.
#[derive(Debug)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
    timer: TimerFd,
    is_waiting: bool,
}

impl RateLimiter {
    /// A limiter with full buckets, or none if `config` limits nothing.
    ///
    /// # Errors
    /// If the process has no descriptor left for the timer.
    pub fn new(config: RateLimiterConfig) -> Result<Option<Self>, RateLimiterError> {
        let now = Instant::now();
        let bucket = |config: Option<BucketConfig>| config.and_then(|config| TokenBucket::new(config, now));
        let (bandwidth, ops) = (bucket(config.bandwidth), bucket(config.ops));
        if bandwidth.is_none() && ops.is_none() {
            return Ok(None);
        }
        let timer = TimerFd::new().map_err(|error| RateLimiterError(error.into()))?;
        Ok(Some(Self { bandwidth, ops, timer, is_waiting: false }))
    }

    /// Becomes readable when it's worth trying again; then call [`on_timer`](Self::on_timer).
    pub fn timer(&self) -> &TimerFd {
        &self.timer
    }

    /// Ends the wait that the timer was set for.
    pub fn on_timer(&mut self) {
        // Only called for a timer that is readable, so it doesn't block; after an error there's nothing to wait for.
        let _ = self.timer.wait();
        self.is_waiting = false;
    }

    /// Whether one operation of `bytes` may go on now. If not, nothing is taken and the timer is set.
    pub fn allow(&mut self, bytes: u64) -> bool {
        if self.is_waiting {
            return false;
        }
        self.replenish();
        let needs = [(&mut self.bandwidth, bytes), (&mut self.ops, 1)];
        let wait = needs.iter().filter_map(|(bucket, tokens)| bucket.as_ref()?.wait_for(*tokens)).max();
        if let Some(wait) = wait {
            self.wait(wait);
            return false;
        }
        let debt = needs.into_iter().filter_map(|(bucket, tokens)| bucket.as_mut()?.take(tokens)).max();
        if let Some(debt) = debt {
            self.wait(debt);
        }
        true
    }

    /// How many of `bytes` may go on now; they are taken. If none, the timer is set.
    pub fn allow_some(&mut self, bytes: u64) -> u64 {
        if self.is_waiting {
            return 0;
        }
        self.replenish();
        let Some(bucket) = &mut self.bandwidth else { return bytes };
        let some = bytes.min(bucket.available());
        bucket.take(some);
        if some == 0 && bytes > 0 {
            // A tenth of a bucket is worth waking up for.
            let wait = bucket.time_of(bytes.min(bucket.size.div_ceil(10)));
            self.wait(wait);
        }
        some
    }

    fn replenish(&mut self) {
        let now = Instant::now();
        [&mut self.bandwidth, &mut self.ops].into_iter().flatten().for_each(|bucket| bucket.replenish(now));
    }

    fn wait(&mut self, duration: Duration) {
        // Zero would disarm the timer.
        let duration = duration.max(Duration::from_nanos(1));
        match self.timer.reset(duration, None) {
            Ok(()) => self.is_waiting = true,
            Err(error) => log::error!("set timer of rate limiter: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(size: u64, one_time_burst: u64, refill_time_ms: u64) -> (TokenBucket, Instant) {
        let now = Instant::now();
        (TokenBucket::new(BucketConfig { size, one_time_burst, refill_time_ms }, now).unwrap(), now)
    }

    #[test]
    fn the_burst_comes_first_and_never_again() {
        let (mut bucket, now) = bucket(10, 5, 1000);
        assert_eq!(bucket.wait_for(10), None);
        assert_eq!(bucket.take(4), None);
        assert_eq!((bucket.burst, bucket.budget), (1, 10));
        assert_eq!(bucket.take(10), None);
        assert_eq!((bucket.burst, bucket.budget), (0, 1));
        bucket.replenish(now + Duration::from_secs(3600));
        assert_eq!((bucket.burst, bucket.budget), (0, 10));
    }

    #[test]
    fn waits_as_long_as_missing_tokens_take() {
        let (mut bucket, now) = bucket(10, 0, 1000);
        bucket.take(8);
        assert_eq!(bucket.wait_for(5), Some(Duration::from_millis(300)));
        bucket.replenish(now + Duration::from_millis(299));
        assert!(bucket.wait_for(5).is_some());
        bucket.replenish(now + Duration::from_millis(300));
        assert_eq!(bucket.wait_for(5), None);
    }

    #[test]
    fn more_than_the_bucket_holds_goes_on_credit() {
        let (mut bucket, _) = bucket(10, 0, 1000);
        assert_eq!(bucket.wait_for(35), None);
        assert_eq!(bucket.take(35), Some(Duration::from_millis(2500)));
        assert_eq!(bucket.available(), 0);
    }

    #[test]
    fn no_limit_is_no_limiter() {
        let zero = Some(BucketConfig { size: 0, one_time_burst: 7, refill_time_ms: 100 });
        let never = Some(BucketConfig { size: 7, one_time_burst: 7, refill_time_ms: 0 });
        assert!(RateLimiter::new(RateLimiterConfig { bandwidth: zero, ops: never }).unwrap().is_none());
    }

    #[test]
    fn a_refused_operation_takes_nothing_and_sets_the_timer() {
        let hour = |size| Some(BucketConfig { size, one_time_burst: 0, refill_time_ms: 3_600_000 });
        let config = RateLimiterConfig { bandwidth: hour(100), ops: hour(2) };
        let mut limiter = RateLimiter::new(config).unwrap().unwrap();
        assert!(limiter.allow(60));
        assert!(!limiter.allow(60));
        assert!(limiter.timer().is_armed().unwrap());
        assert!(!limiter.allow(1));
        limiter.is_waiting = false;
        assert!(limiter.allow(40));
        limiter.is_waiting = false;
        assert!(!limiter.allow(0));
    }

    #[test]
    fn a_part_is_given_if_not_all_can_be() {
        let bandwidth = Some(BucketConfig { size: 100, one_time_burst: 20, refill_time_ms: 3_600_000 });
        let mut limiter = RateLimiter::new(RateLimiterConfig { bandwidth, ops: None }).unwrap().unwrap();
        assert_eq!(limiter.allow_some(1000), 120);
        assert_eq!(limiter.allow_some(1000), 0);
        assert!(limiter.timer().is_armed().unwrap());
    }

    proptest! {
        #[test]
        fn never_gives_more_than_the_rate(
            size in 1u64..1_000_000, burst in 0u64..1000, refill_ms in 1u64..10_000,
            steps in prop::collection::vec((0u64..5_000_000_000, 0u64..2_000_000), 1..50),
        ) {
            let (mut bucket, start) = bucket(size, burst, refill_ms);
            let (mut elapsed, mut given) = (0u64, 0u64);
            for (nanos, tokens) in steps {
                elapsed += nanos;
                bucket.replenish(start + Duration::from_nanos(elapsed));
                let tokens = tokens.min(bucket.available());
                prop_assert_eq!(bucket.wait_for(tokens), None);
                prop_assert_eq!(bucket.take(tokens), None);
                given += tokens;
                let refilled = u128::from(elapsed) * u128::from(size) / (u128::from(refill_ms) * 1_000_000);
                prop_assert!(u128::from(given) <= u128::from(size + burst) + refilled);
            }
        }
    }
}
