//! Who keeps the machine of a run: this process, or a daemon on its behalf.

use stockade_jailer::violation::Violation;
use stockade_jailer::warden::LayerReport;

use crate::machine::{Machine, MachineEnd};
use crate::phases::{Phase, PhaseClock};
use crate::report::Start;
use crate::transfer::Destination;

/// A machine that runs one command, as far as whoever keeps it tells.
#[expect(async_fn_in_trait, reason = "a run is one task")]
pub trait Keeper {
    /// Waits until the guest runs, and enters the phases on the way. Returns when it started, in microseconds of
    /// `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// Why it does not.
    async fn started(&mut self, clock: &mut PhaseClock<'_>) -> Result<u64, MachineEnd>;

    /// Waits until the guest does not run any more, and says why.
    async fn ended(&mut self) -> MachineEnd;

    /// Ends what still runs, and waits until nothing is left. Returns what is, in words.
    async fn remove(&mut self) -> Vec<String>;

    /// The last lines of the guest's console, fit for a terminal.
    async fn console_tail(&self) -> Vec<String>;

    /// What the jail enforces.
    fn confinement(&self) -> Vec<LayerReport>;

    /// The system call for which a filter killed the vmm, once it has ended.
    fn violation(&self) -> Option<Violation>;
}

/// A machine that was launched for a run.
#[derive(Debug)]
pub struct Kept<K, S> {
    pub(super) keeper: K,
    /// The host's end of the agent's connection.
    pub(super) agent: S,
    /// Where copies from the guest go.
    pub(super) destinations: Vec<Destination>,
    /// Where the guest comes from, if that is known.
    pub(super) start: Option<Start>,
}

impl Keeper for Machine {
    async fn started(&mut self, clock: &mut PhaseClock<'_>) -> Result<u64, MachineEnd> {
        self.confined().await?;
        clock.enter_at(Phase::Kvm, self.status().confined_at_us.unwrap_or_default());
        self.kvm_ready().await?;
        clock.enter_at(Phase::Load, self.status().kvm_ready_at_us.unwrap_or_default());
        Self::started(self).await?;
        Ok(self.status().started_at_us.unwrap_or_default())
    }

    async fn ended(&mut self) -> MachineEnd {
        Self::ended(self).await
    }

    async fn remove(&mut self) -> Vec<String> {
        Self::remove(self).await
    }

    async fn console_tail(&self) -> Vec<String> {
        Self::console_tail(self)
    }

    fn confinement(&self) -> Vec<LayerReport> {
        self.status().confinement.clone()
    }

    fn violation(&self) -> Option<Violation> {
        self.status().violation.clone()
    }
}
