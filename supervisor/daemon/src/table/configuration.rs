//! A configuration comes into force: all of it, at once. What runs goes on as it was until it stops.

use std::collections::BTreeSet;

use stockade_api::{Answer, Error, ErrorCode, VmId, VmState};
use stockade_config::Config;
use stockade_config::model::{StartPolicy, Vm as Configured};

use super::effect::{Effect, RequestId};
use super::ids::Claim;
use super::permission::Caller;
use super::record::Record;
use super::{Awaited, Table, Vm};

impl Table {
    pub(super) fn configure(&mut self, config: Config, request: Option<RequestId>) {
        if !std::mem::replace(&mut self.is_configured, true) {
            self.forget_ended();
            let config = self.without_taken_names(config);
            return self.apply(config);
        }
        let result = self.expect_up().and_then(|()| self.expect_names_free(&config)).map(|()| self.apply(config));
        match (request, result) {
            (Some(request), result) => self.answer(request, result.map(|()| Answer::Done)),
            (None, Err(error)) => log::error!("the configuration is not in force: {error}"),
            (None, Ok(())) => {}
        }
    }

    /// A name of the configuration may be taken by a virtual machine that somebody has made.
    fn expect_names_free(&self, config: &Config) -> Result<(), Error> {
        let taken = self.made_by_clients().find(|record| config.vm(record.name.as_str()).is_some());
        taken.map_or(Ok(()), |record| {
            let message = format!(
                "vm {:?}: user {} has a virtual machine of this name",
                record.name.as_str(),
                record.opened_by.uid
            );
            Err(Error::new(ErrorCode::Exists, message, "stop that first, or choose another name"))
        })
    }

    /// The daemon before this one may have died between writing down that one has ended, and forgetting it.
    fn forget_ended(&mut self) {
        let is_over =
            |record: &&Record| !record.configured && !record.state.is_live() && record.state != VmState::Waiting;
        let ended: Vec<VmId> = self.records().filter(is_over).map(|record| record.id).collect();
        ended.into_iter().for_each(|id| self.forget(id));
    }

    fn made_by_clients(&self) -> impl Iterator<Item = &Record> {
        self.records().filter(|record| !record.configured && !record.dropped)
    }

    /// The first configuration of a daemon can't be refused. What is made already stays in the place of what it would define.
    fn without_taken_names(&self, mut config: Config) -> Config {
        config.vms.retain(|vm| {
            let is_taken = self.made_by_clients().any(|record| record.name == vm.name);
            if is_taken {
                log::error!("vm {} of vm.conf is not defined: there is a virtual machine of this name", vm.name);
            }
            !is_taken
        });
        config
    }

    fn apply(&mut self, config: Config) {
        self.config = config;
        let known = self.records().filter(|record| record.configured);
        let gone = known.filter(|record| self.config.vm(record.name.as_str()).is_none());
        let gone: Vec<VmId> = gone.map(|record| record.id).collect();
        gone.into_iter().for_each(|id| self.drop_from_configuration(id));
        let claims: Vec<_> =
            self.config.vms.clone().into_iter().filter_map(|vm| Some((self.claim(&vm)?, vm))).collect();
        if claims.iter().any(|(claim, _)| claim.is_new) {
            self.effect(Effect::SaveIds(self.ids.clone()));
        }
        for (claim, configured) in claims {
            self.define(claim, configured);
        }
    }

    fn claim(&mut self, configured: &Configured) -> Option<Claim> {
        let claim = self.ids.claim(configured.name.as_str(), 0);
        if claim.is_none() {
            log::error!("vm {}: every number was given out", configured.name);
        }
        claim
    }

    fn drop_from_configuration(&mut self, id: VmId) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        (vm.record.configured, vm.record.dropped) = (false, true);
        if vm.record.state.is_live() {
            self.save(id);
            return;
        }
        self.answer_waiters(id, &[Awaited::End], |record| Ok(Answer::Exit(record.last_exit.clone())));
        self.forget(id);
    }

    fn define(&mut self, claim: Claim, configured: Configured) {
        let id = claim.id;
        let Some(vm) = self.vms.get_mut(&id) else {
            let state = initial_state(configured.start);
            let record = Record::new(id, configured, true, Caller::root(), state);
            let record = Record { generation: claim.generation, ..record };
            self.vms.insert(id, Vm::of(record));
            self.assign_addresses(id);
            self.enter(id, state, None);
            return;
        };
        let record = &mut vm.record;
        record.start = configured.start;
        (record.configured, record.dropped) = (true, false);
        let changed = record.definition != configured.definition;
        if record.state.is_live() {
            record.next_definition = changed.then_some(configured.definition);
            self.save(id);
            return;
        }
        record.definition = configured.definition;
        // One that somebody has stopped stays so, unless it is another now.
        let state = match (record.state, configured.start) {
            (VmState::Defined, StartPolicy::Enabled) => VmState::Waiting,
            (VmState::Stopped, StartPolicy::Enabled) if changed => VmState::Waiting,
            (VmState::Waiting, StartPolicy::Disabled) => VmState::Defined,
            (state, _) => state,
        };
        let before = record.state;
        self.assign_addresses(id);
        if state == before { self.save(id) } else { self.enter(id, state, None) }
    }

    /// Ends everything, and forgets it.
    pub(super) fn reset(&mut self, request: RequestId) {
        let all: Vec<_> = self.records().map(|record| (record.id, record.state.is_live())).collect();
        self.resetting.get_or_insert_default().push(request);
        for (id, live) in all {
            if let Some(vm) = self.vms.get_mut(&id) {
                vm.record.configured = false;
                vm.record.stop = None;
            }
            if live { self.kill(id) } else { self.drop_from_configuration(id) }
        }
    }
}

fn initial_state(start: StartPolicy) -> VmState {
    match start {
        StartPolicy::Enabled => VmState::Waiting,
        StartPolicy::Disabled => VmState::Defined,
    }
}

impl Record {
    /// One that never ran.
    pub fn new(id: VmId, vm: Configured, configured: bool, opened_by: Caller, state: VmState) -> Self {
        Self {
            id,
            name: vm.name,
            definition: vm.definition,
            next_definition: None,
            lladdrs: Vec::new(),
            start: vm.start,
            configured,
            dropped: false,
            opened_by,
            roots_paths: BTreeSet::new(),
            ends_on_reset: false,
            held: None,
            state,
            generation: 0,
            run_by: None,
            jail: None,
            stop: None,
            quick_restarts: 0,
            launched_boot_ms: 0,
            started_ms: None,
            last_exit: None,
            last_error: None,
        }
    }
}
