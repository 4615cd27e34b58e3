//! Requests of clients: whether they may, whether it makes sense now, and what is to be done.

use stockade_api::{
    Answer, ConsoleAccess, Error, ErrorCode, Request, ResetScope, StopMode, SwitchSummary, Target, Version, VmId,
    VmReference, VmState,
};
use stockade_config::model::{StartPolicy, StatusVisibility, Switch, VmName};

use super::effect::{Effect, RequestId};
use super::permission::{Caller, Verb, may};
use super::record::Record;
use super::{Awaited, Table, Waiter};

/// Most virtual machines in one answer, so that it fits in a frame between the daemon's processes.
const MOST_IN_AN_ANSWER: usize = 32;

impl Table {
    pub(super) fn request(&mut self, id: RequestId, caller: &Caller, request: Request) {
        let answer = match request {
            Request::Version => Ok(Some(Answer::Version(version()))),
            Request::List { after } => Ok(Some(self.list(caller, after))),
            Request::Show { vm } => self.find(caller, &vm).map(|record| Some(Answer::Vm(Box::new(record.summary())))),
            Request::Start { vm } => self.start(id, caller, &vm),
            Request::Create { definition } => self.create(id, caller, *definition),
            Request::Stop { vm, mode } => self.stop(id, caller, &vm, mode),
            Request::Wait { vm } => self.wait(id, caller, &vm),
            Request::Pause { vm } => self.pause(id, caller, &vm),
            Request::Unpause { vm } => self.unpause(id, caller, &vm),
            Request::Events { after } => {
                let visible = self.config.globals.status_visible;
                self.log.ask(id, caller, after, visible).transpose().map(|page| page.map(Answer::Events))
            }
            Request::Run { definition } => self.run(id, caller, *definition),
            Request::Attach { vm, target } => self.attach(id, caller, &vm, target),
            Request::Switches => {
                let switches = self.switches(caller);
                self.effect(Effect::LookUp { request: id, switches });
                Ok(None)
            }
            Request::Reload => self.administer(caller, |table| table.read_configuration(id, None)),
            Request::Load { path } => self.administer(caller, |table| table.read_configuration(id, Some(path))),
            Request::Reset { what: ResetScope::All | ResetScope::Vms } => {
                self.administer(caller, |table| table.reset(id))
            }
            Request::Reset { what: ResetScope::Switches } => self.administer(caller, |table| {
                table.config.switches.clear();
                table.answer(id, Ok(Answer::Done));
            }),
            Request::Log { verbosity } => self.administer(caller, |table| {
                table.effect(Effect::Log(verbosity));
                table.answer(id, Ok(Answer::Done));
            }),
        };
        match answer {
            Ok(Some(answer)) => self.answer(id, Ok(answer)),
            Ok(None) => {}
            Err(error) => self.answer(id, Err(error)),
        }
    }

    /// The switches that a caller may see: all, or those that its virtual machines are plugged into.
    fn switches(&self, caller: &Caller) -> Vec<SwitchSummary> {
        let visible = self.config.globals.status_visible;
        let sees_all = caller.uid == 0 || visible == StatusVisibility::All;
        let seen: Vec<_> = self.records().filter(|record| may(caller, Verb::Status, record, visible)).collect();
        let plugged = |switch: &Switch| {
            let mut interfaces = seen.iter().flat_map(|record| &record.definition.interfaces);
            interfaces.any(|interface| interface.switch.as_ref() == Some(&switch.name))
        };
        let switches = self.config.switches.iter().filter(|switch| sees_all || plugged(switch));
        let summary = |switch: &Switch| SwitchSummary {
            name: switch.name.clone(),
            interface: switch.interface.clone(),
            enabled: switch.start == StartPolicy::Enabled,
            link: None,
        };
        switches.map(summary).collect()
    }

    fn list(&self, caller: &Caller, after: VmId) -> Answer {
        let visible = self.config.globals.status_visible;
        let later = self.records().filter(|record| record.id > after);
        let mut seen = later.filter(|record| may(caller, Verb::Status, record, visible)).map(Record::summary);
        let vms: Vec<_> = seen.by_ref().take(MOST_IN_AN_ANSWER).collect();
        Answer::List { vms, more: seen.next().is_some() }
    }

    /// The one that the caller means, if it may know of it.
    fn find(&self, caller: &Caller, reference: &VmReference) -> Result<&Record, Error> {
        let found = match reference {
            VmReference::Id(id) => self.record(*id),
            VmReference::Name(name) => self.records().find(|record| record.name.as_str() == name),
        };
        let visible = self.config.globals.status_visible;
        found.filter(|record| may(caller, Verb::Status, record, visible)).ok_or_else(|| {
            let reference: String = reference.to_string().chars().take(VmName::MAX_BYTES).collect();
            let message = format!("there is no virtual machine {reference:?}, or none of yours");
            Error::new(ErrorCode::NotFound, message, "list those that there are: stockade status")
        })
    }

    /// The same, if the caller may do this with it.
    fn find_for(&self, caller: &Caller, verb: Verb, reference: &VmReference) -> Result<&Record, Error> {
        let record = self.find(caller, reference)?;
        if may(caller, verb, record, self.config.globals.status_visible) {
            return Ok(record);
        }
        let message = format!("{} is somebody else's", record.name);
        Err(Error::new(ErrorCode::NotPermitted, message, "ask its owner, or root"))
    }

    fn administer(&mut self, caller: &Caller, act: impl FnOnce(&mut Self)) -> Result<Option<Answer>, Error> {
        if caller.uid != 0 {
            return Err(Error::new(ErrorCode::NotPermitted, "only root may do that", "use sudo"));
        }
        self.expect_up()?;
        act(self);
        Ok(None)
    }

    fn read_configuration(&mut self, request: RequestId, path: Option<String>) {
        self.effect(Effect::Configure { path, request });
    }

    pub(super) fn expect_up(&self) -> Result<(), Error> {
        let down = |what| Err(Error::new(ErrorCode::ShuttingDown, what, "try again in a while"));
        if self.shutting_down {
            return down("the daemon is going down");
        }
        if self.resetting.is_some() { down("everything is being reset") } else { Ok(()) }
    }

    pub(super) fn await_on(&mut self, vm: VmId, request: RequestId, awaits: Awaited) -> Option<Answer> {
        if let Some(vm) = self.vms.get_mut(&vm) {
            vm.waiters.push(Waiter { request, awaits });
        }
        None
    }

    fn start(&mut self, request: RequestId, caller: &Caller, vm: &VmReference) -> Result<Option<Answer>, Error> {
        let record = self.find_for(caller, Verb::Start, vm)?;
        let id = record.id;
        match record.state {
            VmState::Defined | VmState::Waiting | VmState::Stopped => {}
            VmState::Stopping => return Err(stopping(record)),
            state => {
                let message = format!("{} is {state} already", record.name);
                return Err(Error::new(ErrorCode::AlreadyRunning, message, ""));
            }
        }
        self.expect_up()?;
        self.launch(id, caller.uid, 0)?;
        Ok(self.await_on(id, request, Awaited::Start))
    }

    fn stop(
        &mut self,
        request: RequestId,
        caller: &Caller,
        vm: &VmReference,
        mode: StopMode,
    ) -> Result<Option<Answer>, Error> {
        let record = self.find_for(caller, Verb::Stop, vm)?;
        let (id, state) = (record.id, record.state);
        match (state, mode) {
            (VmState::Defined | VmState::Stopped, _) => return Err(not_running(record)),
            (VmState::Stopping, StopMode::Ask) => return Err(stopping(record)),
            (VmState::Waiting, _) => {
                // Its turn never comes.
                let answer = Answer::Exit(record.last_exit.clone());
                self.come_to_rest(id, None);
                return Ok(Some(answer));
            }
            (_, StopMode::Ask) => self.ask_to_stop(id),
            (_, StopMode::Force) => self.kill(id),
        }
        Ok(self.await_on(id, request, Awaited::End))
    }

    fn wait(&mut self, request: RequestId, caller: &Caller, vm: &VmReference) -> Result<Option<Answer>, Error> {
        let record = self.find_for(caller, Verb::Wait, vm)?;
        let id = record.id;
        if record.state.is_live() || record.state == VmState::Waiting {
            return Ok(self.await_on(id, request, Awaited::End));
        }
        Ok(Some(Answer::Exit(record.last_exit.clone())))
    }

    fn attach(
        &mut self,
        request: RequestId,
        caller: &Caller,
        vm: &VmReference,
        target: Target,
    ) -> Result<Option<Answer>, Error> {
        let record = self.find_for(caller, Verb::Console, vm)?;
        let (vm, at_work) = (record.id, record.state.is_live() || record.state == VmState::Waiting);
        match target {
            Target::Console { access: ConsoleAccess::Write } if !at_work => return Err(not_running(record)),
            Target::Console { .. } => {}
            Target::Agent => expect_agent(record)?,
        }
        self.effect(Effect::Attach { id: request, vm, target });
        Ok(None)
    }

    fn pause(&mut self, request: RequestId, caller: &Caller, vm: &VmReference) -> Result<Option<Answer>, Error> {
        let record = self.find_for(caller, Verb::Pause, vm)?;
        let (id, generation) = (record.id, record.generation);
        match record.state {
            VmState::Running => {}
            VmState::Paused => {
                let message = format!("{} is paused already", record.name);
                return Err(Error::new(ErrorCode::AlreadyPaused, message, ""));
            }
            VmState::Stopping => return Err(stopping(record)),
            _ => return Err(not_running(record)),
        }
        self.effect(Effect::Pause { vm: id, generation });
        Ok(self.await_on(id, request, Awaited::Pause))
    }

    fn unpause(&mut self, request: RequestId, caller: &Caller, vm: &VmReference) -> Result<Option<Answer>, Error> {
        let record = self.find_for(caller, Verb::Pause, vm)?;
        let (id, generation) = (record.id, record.generation);
        match record.state {
            VmState::Paused => {}
            VmState::Running => {
                let message = format!("{} is not paused", record.name);
                return Err(Error::new(ErrorCode::NotPaused, message, ""));
            }
            VmState::Stopping => return Err(stopping(record)),
            _ => return Err(not_running(record)),
        }
        self.effect(Effect::Resume { vm: id, generation });
        Ok(self.await_on(id, request, Awaited::Unpause))
    }
}

fn version() -> Version {
    Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: stockade_api::VERSION.to_owned() }
}

/// Whether there can be an agent in its guest now.
fn expect_agent(record: &Record) -> Result<(), Error> {
    match record.state {
        VmState::Running if record.has_vsock() => Ok(()),
        VmState::Running => {
            let message = format!("{} has no vsock device, by which its guest could be reached", record.name);
            Err(Error::new(ErrorCode::NoAgent, message, "give it one in vm.conf (vsock enable), or boot default"))
        }
        VmState::Waiting | VmState::Starting => Err(Error::new(
            ErrorCode::AgentNotReady,
            format!("{} is {}", record.name, record.state),
            "try again in a while",
        )),
        VmState::Stopping => Err(stopping(record)),
        VmState::Paused => Err(Error::new(
            ErrorCode::NotRunning,
            format!("{} is paused", record.name),
            "have it go on: stockade unpause",
        )),
        _ => Err(not_running(record)),
    }
}

fn stopping(record: &Record) -> Error {
    let remedy = "wait for it, or end it: stockade stop -f";
    Error::new(ErrorCode::Stopping, format!("{} is stopping already", record.name), remedy)
}

fn not_running(record: &Record) -> Error {
    Error::new(ErrorCode::NotRunning, format!("{} is {}", record.name, record.state), "start it first")
}
