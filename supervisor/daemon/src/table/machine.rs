//! What becomes of a virtual machine when something is heard of its vmm.

use stockade_api::event::Change;
use stockade_api::{Answer, Error, ErrorCode, Exit, ExitCause, VmId, VmState};
use stockade_config::model::StartPolicy;

use super::effect::{Effect, MachineEvent};
use super::{Awaited, Table, Vm, Waiter};

impl Table {
    pub(super) fn machine(&mut self, id: VmId, generation: u64, event: MachineEvent) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        // What is heard of a machine that is gone is not about its successor.
        if vm.record.generation != generation || !vm.record.state.is_live() {
            return;
        }
        let state = vm.record.state;
        match event {
            MachineEvent::Confined(jail) => {
                vm.record.jail = Some(jail);
                self.save(id);
            }
            MachineEvent::Started if state == VmState::Starting => {
                vm.record.started_ms = Some(self.clock.wall_ms);
                self.enter(id, VmState::Running, None);
                self.answer_waiters(id, &[Awaited::Start], |record| Ok(Answer::Vm(Box::new(record.summary()))));
                self.give_agent(id);
            }
            MachineEvent::NeverLaunched => self.never_launched(id),
            MachineEvent::NotStarted(error) => self.not_started(id, &error),
            MachineEvent::Paused if state == VmState::Running => {
                self.enter(id, VmState::Paused, None);
                self.answer_waiters(id, &[Awaited::Pause], |record| Ok(Answer::Vm(Box::new(record.summary()))));
            }
            MachineEvent::Paused if state == VmState::Stopping => {
                // It was asked to stop meanwhile, and has to run for that.
                self.effect(Effect::Resume { vm: id, generation });
            }
            MachineEvent::Resumed if state == VmState::Paused => {
                self.enter(id, VmState::Running, None);
                self.answer_waiters(id, &[Awaited::Unpause], |record| Ok(Answer::Vm(Box::new(record.summary()))));
            }
            MachineEvent::NotPaused(message) => {
                let failed = Error::new(ErrorCode::VmmFailed, message, "");
                self.answer_waiters(id, &[Awaited::Pause, Awaited::Unpause], |_| Err(failed.clone()));
            }
            MachineEvent::Ended { cause, message } => self.ended(id, cause, message),
            MachineEvent::Started | MachineEvent::Paused | MachineEvent::Resumed => {}
        }
    }

    /// Who waits for the guest's agent gets its connection.
    fn give_agent(&mut self, id: VmId) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let generation = vm.record.generation;
        let (given, rest) = vm.waiters.drain(..).partition(|waiter| waiter.awaits == Awaited::Agent);
        vm.waiters = rest;
        let given: Vec<Waiter> = given;
        given.into_iter().for_each(|waiter| {
            self.effect(Effect::GiveAgent { id: waiter.request, vm: id, generation });
        });
    }

    /// The daemon before this one died between writing down that it starts one, and doing it.
    fn never_launched(&mut self, id: VmId) {
        let state = self.record(id).map(|record| if record.held.is_some() { VmState::Stopping } else { record.state });
        match state {
            Some(VmState::Starting) => self.enter(id, VmState::Waiting, None),
            Some(_) => self.ended(id, ExitCause::Killed, "it was stopped before it had started".to_owned()),
            None => {}
        }
    }

    fn not_started(&mut self, id: VmId, error: &Error) {
        if self.record(id).is_some_and(|record| record.state == VmState::Stopping) {
            self.ended(id, ExitCause::Killed, "it was stopped while it started".to_owned());
        } else {
            self.start_failed(id, error);
        }
    }

    fn ended(&mut self, id: VmId, cause: ExitCause, message: String) {
        let Some(record) = self.record(id) else { return };
        let (state, forced) = (record.state, record.stop.is_some_and(|stop| stop.deadline_ms.is_none()));
        let ends_on_reset = record.ends_on_reset || record.definition.boot_device.is_some();
        let exit = |cause, message| Exit { cause, message, at_ms: self.clock.wall_ms };
        if state == VmState::Starting {
            let message = format!("{} ended before its guest ran: {message}", record.name);
            let exit = exit(cause, message.clone());
            if let Some(vm) = self.vms.get_mut(&id) {
                vm.record.last_exit = Some(exit);
            }
            self.start_failed(id, &Error::new(ErrorCode::StartFailed, message, ""));
            return;
        }
        if state == VmState::Stopping {
            let exit = match cause {
                _ if forced && !matches!(cause, ExitCause::Reset | ExitCause::PowerOff) => {
                    exit(ExitCause::Killed, "it was ended on request".to_owned())
                }
                // Guests that can't power off reset instead.
                ExitCause::Reset => exit(ExitCause::PowerOff, message),
                _ => exit(cause, message),
            };
            self.come_to_rest(id, Some(exit));
            return;
        }
        let exit = exit(cause, message);
        if cause == ExitCause::Reset && !ends_on_reset && !self.shutting_down {
            if let Err(error) = self.restart(id) {
                if let Some(vm) = self.vms.get_mut(&id) {
                    vm.record.last_exit = Some(exit);
                }
                self.start_failed(id, &error);
            }
            return;
        }
        self.come_to_rest(id, Some(exit));
    }

    /// It does not run any more: answers who waits for that, and forgets one that is not configured.
    pub(super) fn come_to_rest(&mut self, id: VmId, exit: Option<Exit>) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let record = &mut vm.record;
        let again = record.configured
            && record.start == StartPolicy::Enabled
            && record.stop.is_some_and(|stop| stop.until_next_daemon);
        record.jail = None;
        record.stop = None;
        record.run_by = None;
        if exit.is_some() {
            record.last_exit.clone_from(&exit);
        }
        if let Some(next) = record.next_definition.take() {
            record.definition = next;
        }
        let configured = record.configured;
        self.assign_addresses(id);
        self.enter(id, if again { VmState::Waiting } else { VmState::Stopped }, exit);
        self.answer_waiters(id, &[Awaited::End], |record| Ok(Answer::Exit(record.last_exit.clone())));
        let name = self.record(id).map(|record| record.name.to_string()).unwrap_or_default();
        let ended = Error::new(ErrorCode::Ended, format!("{name} ended before that was done"), "");
        self.answer_waiters(id, &[Awaited::Start, Awaited::Agent, Awaited::Pause, Awaited::Unpause], |_| {
            Err(ended.clone())
        });
        if !configured {
            self.forget(id);
        }
    }

    /// Nobody is to know of it any more.
    pub(super) fn forget(&mut self, id: VmId) {
        self.publish(id, Change::Removed);
        let Some(Vm { record, .. }) = self.vms.remove(&id) else { return };
        if self.ids.note_generation(record.name.as_str(), record.opened_by.uid, record.generation) {
            self.effect(Effect::SaveIds(self.ids.clone()));
        }
        self.effect(Effect::Forget(id));
    }
}
