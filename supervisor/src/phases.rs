//! The phases of a run, and how long each took.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A phase of a run, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Images are opened, and the jail is built.
    Jail,
    /// The vmm starts and makes the machine in KVM.
    Kvm,
    /// Kernel and initial RAM disk go to guest memory, or the state of a booted guest is restored.
    Load,
    /// The guest's kernel boots, until its agent calls.
    Kernel,
    /// A guest that had booted goes on, until its agent calls.
    Resume,
    /// The agent prepares the command's root.
    Agent,
    /// Files are copied to the guest.
    CopyIn,
    /// The command runs.
    Command,
    /// Files are copied from the guest.
    CopyOut,
    /// The guest ends, and everything that was made for it is removed.
    Stop,
}

impl Phase {
    /// Name of the phase in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jail => "jail",
            Self::Kvm => "kvm",
            Self::Load => "load",
            Self::Kernel => "kernel",
            Self::Resume => "resume",
            Self::Agent => "agent",
            Self::CopyIn => "copy-in",
            Self::Command => "command",
            Self::CopyOut => "copy-out",
            Self::Stop => "stop",
        }
    }
}

/// How long a phase took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// Its duration, microseconds.
    pub duration_us: u64,
}

/// Somebody who is told about phases as they come.
pub trait Observer {
    /// `phase` begins.
    fn began(&mut self, phase: Phase);
    /// `phase` is over.
    fn ended(&mut self, phase: Phase, duration: Duration);
}

/// Measures phases, one after the other.
pub struct PhaseClock<'a> {
    observer: &'a mut dyn Observer,
    current: Option<(Phase, u64)>,
    times: Vec<PhaseTime>,
}

impl<'a> PhaseClock<'a> {
    /// Tells `observer` about every phase.
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self { observer, current: None, times: Vec::new() }
    }

    /// Begins `phase` now, and so ends the one before it.
    pub fn enter(&mut self, phase: Phase) {
        self.enter_at(phase, monotonic_us());
    }

    /// Begins `phase` at `at_us`, a time in the past that somebody else measured and that need not be true.
    pub fn enter_at(&mut self, phase: Phase, at_us: u64) {
        let began = self.end_at(at_us);
        self.current = Some((phase, began));
        self.observer.began(phase);
    }

    /// Ends the current phase now.
    pub fn end(&mut self) {
        self.end_at(monotonic_us());
    }

    /// What was measured.
    pub fn times(&self) -> &[PhaseTime] {
        &self.times
    }

    fn end_at(&mut self, at_us: u64) -> u64 {
        let at_us = at_us.min(monotonic_us());
        let Some((phase, began)) = self.current.take() else { return at_us };
        let at_us = at_us.max(began);
        let duration_us = at_us.saturating_sub(began);
        self.times.push(PhaseTime { phase, duration_us });
        self.observer.ended(phase, Duration::from_micros(duration_us));
        at_us
    }
}

/// `CLOCK_MONOTONIC` in microseconds.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Observer for Nobody {
        fn began(&mut self, _: Phase) {}
        fn ended(&mut self, _: Phase, _: Duration) {}
    }

    #[test]
    fn phases_are_contiguous_whatever_others_say() {
        let mut nobody = Nobody;
        let mut clock = PhaseClock::new(&mut nobody);
        let start = monotonic_us();
        clock.enter_at(Phase::Jail, start - 3000);
        clock.enter_at(Phase::Kvm, start - 1000);
        clock.enter_at(Phase::Load, 0);
        clock.enter_at(Phase::Kernel, u64::MAX);
        clock.end();
        let times: Vec<_> = clock.times().iter().map(|time| (time.phase, time.duration_us)).collect();
        assert_eq!(times[..2], [(Phase::Jail, 2000), (Phase::Kvm, 0)]);
        let total: u64 = times.iter().map(|(_, duration)| duration).sum();
        assert!((3000..=monotonic_us() - start + 3000).contains(&total));
        assert_eq!(times.len(), 4);
    }
}
