//! Starting: when it is somebody's turn, and what happens then; and ending those that had their time.

use stockade_api::event::Change;
use stockade_api::{Error, ErrorCode, VmId, VmState};

use super::effect::Effect;
use super::{Awaited, StopOrder, Table};

/// Milliseconds between starts that are no sign of a guest that can't start.
const QUICK_MS: u64 = 6000;
/// So many quick restarts in a row are enough.
const MOST_QUICK_RESTARTS: u32 = 3;
/// Seconds between groups, if the configuration says nothing.
const DEFAULT_DELAY_SECONDS: u32 = 30;

impl Table {
    /// Starts the next group of those that wait, if it is time.
    pub(super) fn start_waiting(&mut self) {
        if self.shutting_down || self.clock.boot_ms < self.next_batch_ms {
            return;
        }
        let staggered = self.config.globals.staggered_start;
        let parallel = staggered.map_or(self.host.cpus.max(1), |staggered| staggered.parallel.get());
        let delay = staggered.map_or(DEFAULT_DELAY_SECONDS, |staggered| staggered.delay_seconds);
        let waiting = self.records().filter(|record| record.state == VmState::Waiting).map(|record| record.id);
        let batch: Vec<VmId> = waiting.take(usize::try_from(parallel).unwrap_or(usize::MAX)).collect();
        if batch.is_empty() {
            return;
        }
        self.next_batch_ms = self.clock.boot_ms.saturating_add(u64::from(delay).saturating_mul(1000));
        for id in batch {
            let user = self.record(id).and_then(|record| record.run_by).unwrap_or(0);
            if let Err(error) = self.launch(id, user, 0) {
                self.start_failed(id, &error);
            }
        }
    }

    /// Launches one for a user, if there is room for it, after so many quick resets in a row.
    pub(super) fn launch(&mut self, id: VmId, user: u32, quick_restarts: u32) -> Result<(), Error> {
        let Some(record) = self.record(id) else { return Ok(()) };
        self.admit(record.name.as_str(), &record.definition)?;
        let boot_ms = self.clock.boot_ms;
        if let Some(vm) = self.vms.get_mut(&id) {
            let record = &mut vm.record;
            record.generation = record.generation.saturating_add(1);
            record.run_by = Some(user);
            record.quick_restarts = quick_restarts;
            record.jail = None;
            record.stop = None;
            record.launched_boot_ms = boot_ms;
            record.last_error = None;
        }
        self.enter(id, VmState::Starting, None);
        if let Some(record) = self.record(id).cloned() {
            self.effect(Effect::Launch(Box::new(record)));
        }
        Ok(())
    }

    /// Starts one again whose guest has reset itself, with the same number and the same console.
    pub(super) fn restart(&mut self, id: VmId) -> Result<(), Error> {
        let boot_ms = self.clock.boot_ms;
        let Some(vm) = self.vms.get_mut(&id) else { return Ok(()) };
        let record = &mut vm.record;
        let quick = boot_ms.saturating_sub(record.launched_boot_ms) < QUICK_MS;
        let quick_restarts = if quick { record.quick_restarts.saturating_add(1) } else { 0 };
        if quick_restarts >= MOST_QUICK_RESTARTS {
            let message =
                format!("{} has reset itself {MOST_QUICK_RESTARTS} times in a row within seconds", record.name);
            return Err(Error::new(ErrorCode::RestartedTooQuickly, message, "look at its console"));
        }
        let user = record.run_by.unwrap_or(0);
        // It still counts as running, and must not be in its own way.
        record.state = VmState::Stopped;
        self.publish(id, Change::Rebooted);
        self.launch(id, user, quick_restarts)
    }

    /// One could not be started: keeps why, and tells who waits.
    pub(super) fn start_failed(&mut self, id: VmId, error: &Error) {
        self.publish(id, Change::StartFailed { message: error.to_string() });
        self.answer_waiters(id, &[Awaited::Start, Awaited::Agent], |_| Err(error.clone()));
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.record.last_error = Some(error.to_string());
        }
        self.come_to_rest(id, None);
    }

    /// Ends those whose guests had their time to stop by themselves.
    pub(super) fn end_overdue(&mut self) {
        let now = self.clock.boot_ms;
        let is_over = |stop: StopOrder| stop.deadline_ms.is_some_and(|deadline| deadline <= now);
        let over = self.records().filter(|record| record.stop.is_some_and(is_over));
        let over: Vec<_> = over.map(|record| record.id).collect();
        over.into_iter().for_each(|id| self.kill(id));
    }

    /// Asks the guest to stop, unless it has not even started.
    pub(super) fn ask_to_stop(&mut self, id: VmId) {
        let default_timeout = self.config.globals.stop_timeout_seconds;
        let (boot_ms, until_next_daemon) = (self.clock.boot_ms, self.shutting_down);
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let (state, generation) = (vm.record.state, vm.record.generation);
        if state == VmState::Stopping {
            return;
        }
        let timeout = vm.record.definition.stop_timeout_seconds.unwrap_or(default_timeout);
        let deadline = boot_ms.saturating_add(u64::from(timeout).saturating_mul(1000));
        vm.record.stop = Some(StopOrder { deadline_ms: Some(deadline), until_next_daemon });
        if state == VmState::Starting {
            self.kill(id);
            return;
        }
        self.enter(id, VmState::Stopping, None);
        if state == VmState::Paused {
            self.effect(Effect::Resume { vm: id, generation });
        }
        self.effect(Effect::Ask { vm: id, generation });
    }

    /// Ends it now.
    pub(super) fn kill(&mut self, id: VmId) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let generation = vm.record.generation;
        let until_next_daemon = vm.record.stop.is_some_and(|stop| stop.until_next_daemon);
        vm.record.stop = Some(StopOrder { deadline_ms: None, until_next_daemon });
        if vm.record.state == VmState::Stopping {
            self.save(id);
        } else {
            self.enter(id, VmState::Stopping, None);
        }
        self.effect(Effect::Kill { vm: id, generation });
    }
}
