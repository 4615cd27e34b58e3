//! The machines of the fake daemon.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use stockade_api::event::Change;
use stockade_api::request::{NewRun, NewVm, ResetScope};
use stockade_api::{
    Answer, ConsoleAccess, Error, ErrorCode, Event, EventPage, Exit, ExitCause, Owner, VmId, VmReference, VmState,
    VmSummary,
};

/// Machines in one answer.
const PAGE: usize = 50;
/// Events that are kept.
const KEPT_EVENTS: usize = 256;
/// Most machines; each test needs a few.
const MOST_VMS: usize = 1000;

/// Machines, and what happened to them.
pub(super) struct State {
    vms: BTreeMap<VmId, VmSummary>,
    events: VecDeque<Event>,
    /// How those ended that are gone, with the generation.
    gone: BTreeMap<VmId, Option<Exit>>,
    next_id: u32,
    cursor: u64,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn error(code: ErrorCode, message: impl Into<String>, remedy: &str) -> Error {
    Error::new(code, message, remedy)
}

/// The code that a name asks for.
fn wanted_failure(name: &str) -> Option<Error> {
    let name = name.strip_prefix("fail.")?;
    let code = ErrorCode::ALL.iter().find(|code| code.name() == name)?;
    Some(error(*code, format!("{name}, as the name asks for"), "choose another name"))
}

fn check_name(name: &str) -> Result<(), Error> {
    let characters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let start = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if characters && start && name.len() < 64 && !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    let message = format!("name: {:?} can't be one", name.chars().take(80).collect::<String>());
    Err(error(
        ErrorCode::InvalidName,
        message,
        "use up to 63 letters, digits, '.', '-' and '_', the first no sign, not digits alone",
    ))
}

fn check_range(field: &str, value: Option<u64>, most: u64) -> Result<(), Error> {
    match value {
        Some(value) if !(1..=most).contains(&value) => {
            Err(error(ErrorCode::InvalidValue, format!("{field}: {value}"), &format!("use 1 to {most}")))
        }
        _ => Ok(()),
    }
}

/// Refuses paths that are not absolute.
pub(super) fn absolute(field: &str, path: &str) -> Result<(), Error> {
    if path.starts_with('/') && !path.contains('\0') && path.len() < 4096 {
        return Ok(());
    }
    let message = format!("{field}: {:?} is no absolute path", path.chars().take(80).collect::<String>());
    Err(error(ErrorCode::InvalidValue, message, "begin it with '/'"))
}

fn check(new: &NewVm) -> Result<(), Error> {
    check_name(&new.name)?;
    check_range("cpus", new.cpus.map(u64::from), 32)?;
    check_range("memory_mib", new.memory_mib, 16 << 20)?;
    let files = [("kernel", &new.kernel), ("initramfs", &new.initramfs), ("cdrom", &new.cdrom)];
    let files = files.into_iter().filter_map(|(field, path)| path.as_deref().map(|path| (field, path)));
    for (field, path) in files.chain(new.disks.iter().map(|disk| ("disks", disk.path.as_str()))) {
        absolute(field, path)?;
    }
    if new.disks.len() > 4 || new.interfaces.len() > 4 {
        return Err(error(ErrorCode::InvalidValue, "disks, interfaces: too many", "use at most 4 of each"));
    }
    Ok(())
}

/// A virtual machine for one command, as any other.
pub(super) fn whole(new: NewRun) -> NewVm {
    let NewRun { name, cpus, memory_mib, kernel, initramfs, disks, boot: _ } = new;
    NewVm { name, cpus, memory_mib, kernel, initramfs, disks, ..NewVm::default() }
}

impl State {
    pub(super) fn new(configured: &[(String, u32)]) -> Self {
        let mut state =
            Self { vms: BTreeMap::new(), events: VecDeque::new(), gone: BTreeMap::new(), next_id: 1, cursor: 0 };
        for (name, uid) in configured {
            let new = NewVm { name: name.clone(), ..NewVm::default() };
            let id = state.add(Owner { uid: *uid, gid: None }, &new);
            if let Some(vm) = state.vms.get_mut(&id) {
                vm.configured = true;
                vm.state = VmState::Defined;
            }
        }
        state
    }

    fn add(&mut self, owner: Owner, new: &NewVm) -> VmId {
        let id = VmId(self.next_id);
        self.next_id = self.next_id.saturating_add(1);
        let vm = VmSummary {
            id,
            name: new.name.clone(),
            state: VmState::Stopped,
            generation: 0,
            owner,
            run_by: None,
            cpus: new.cpus.unwrap_or(1),
            memory_mib: new.memory_mib.unwrap_or(512),
            disks: u32::try_from(new.disks.len()).unwrap_or(u32::MAX),
            interfaces: Vec::new(),
            configured: false,
            pid: None,
            jail: None,
            started_ms: None,
            last_exit: None,
            last_error: None,
        };
        self.vms.insert(id, vm);
        id
    }

    pub(super) fn visible(&self, uid: u32, reference: &VmReference) -> Result<&VmSummary, Error> {
        if let VmReference::Name(name) = reference {
            wanted_failure(name).map_or(Ok(()), Err)?;
        }
        let found = self.vms.values().find(|vm| match reference {
            VmReference::Id(id) => vm.id == *id,
            VmReference::Name(name) => vm.name == *name,
        });
        found.filter(|vm| uid == 0 || vm.owner.uid == uid).ok_or_else(|| {
            let shown: String = reference.to_string().chars().take(80).collect();
            error(
                ErrorCode::NotFound,
                format!("there is no virtual machine {shown:?}"),
                "stockade status shows those that you may see",
            )
        })
    }

    pub(super) fn show(&self, id: VmId) -> Result<Answer, Error> {
        self.visible(0, &VmReference::Id(id)).map(|vm| Answer::Vm(Box::new(vm.clone())))
    }

    pub(super) fn list(&self, uid: u32, after: VmId) -> Answer {
        let mut vms: Vec<_> =
            self.vms.values().filter(|vm| vm.id > after && (uid == 0 || vm.owner.uid == uid)).collect();
        let more = vms.len() > PAGE;
        vms.truncate(PAGE);
        Answer::List { vms: vms.into_iter().cloned().collect(), more }
    }

    pub(super) fn create(&mut self, uid: u32, new: &NewVm) -> Result<VmId, Error> {
        check(new)?;
        wanted_failure(&new.name).map_or(Ok(()), Err)?;
        if let Some(template) = &new.template {
            wanted_failure(template).map_or(Ok(()), Err)?;
            if !self.vms.values().any(|vm| vm.name == *template) {
                let shown: String = template.chars().take(80).collect();
                let message = format!("there is no template {shown:?}");
                return Err(error(ErrorCode::TemplateNotFound, message, "name a virtual machine of vm.conf"));
            }
        }
        if self.vms.values().any(|vm| vm.name == new.name) {
            let message = format!("there is a virtual machine {:?} already", new.name);
            return Err(error(ErrorCode::Exists, message, "choose another name, or start that one"));
        }
        if self.vms.len() >= MOST_VMS {
            return Err(error(ErrorCode::IdsExhausted, "there are too many", "remove some"));
        }
        let owner = new.owner.unwrap_or(Owner { uid, gid: None });
        if uid != 0 && owner.uid != uid {
            return Err(error(ErrorCode::NotPermitted, "owner: only root may give machines to others", "leave it out"));
        }
        let id = self.add(owner, new);
        self.run(id, uid);
        Ok(id)
    }

    pub(super) fn start(&mut self, uid: u32, reference: &VmReference) -> Result<VmId, Error> {
        let vm = self.visible(uid, reference)?;
        let (id, state) = (vm.id, vm.state);
        if state.is_live() {
            return Err(error(ErrorCode::AlreadyRunning, format!("{} is {state}", vm.name), "stop it first"));
        }
        self.run(id, uid);
        Ok(id)
    }

    fn run(&mut self, id: VmId, uid: u32) {
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.generation = vm.generation.saturating_add(1);
            vm.run_by = Some(uid);
            vm.pid = Some(1);
            vm.jail = Some(format!("{}-{id}-{}", vm.name, vm.generation));
            vm.started_ms = Some(now_ms());
        }
        self.set_state(id, VmState::Starting, None);
        self.set_state(id, VmState::Running, None);
    }

    /// The machine, if it is in one of `states`.
    pub(super) fn in_state(&self, uid: u32, reference: &VmReference, states: &[VmState]) -> Result<VmId, Error> {
        let vm = self.visible(uid, reference)?;
        if states.contains(&vm.state) {
            return Ok(vm.id);
        }
        let (code, remedy) = match vm.state {
            VmState::Running => (ErrorCode::NotPaused, "pause it first"),
            VmState::Paused => (ErrorCode::AlreadyPaused, "unpause it first"),
            _ => (ErrorCode::NotRunning, "start it first"),
        };
        Err(error(code, format!("{} is {}", vm.name, vm.state), remedy))
    }

    /// The machine whose console somebody wants.
    pub(super) fn to_console(&self, uid: u32, vm: &VmReference, access: ConsoleAccess) -> Result<VmId, Error> {
        match access {
            ConsoleAccess::Read => self.visible(uid, vm).map(|vm| vm.id),
            ConsoleAccess::Write if !self.visible(uid, vm)?.state.is_live() => {
                Err(error(ErrorCode::NotRunning, format!("{vm} does not run"), "start it first"))
            }
            ConsoleAccess::Write => self.visible(uid, vm).map(|vm| vm.id),
        }
    }

    pub(super) fn pause(&mut self, uid: u32, reference: &VmReference) -> Result<VmId, Error> {
        let id = self.in_state(uid, reference, &[VmState::Running])?;
        self.set_state(id, VmState::Paused, None);
        Ok(id)
    }

    pub(super) fn unpause(&mut self, uid: u32, reference: &VmReference) -> Result<VmId, Error> {
        let id = self.in_state(uid, reference, &[VmState::Paused])?;
        self.set_state(id, VmState::Running, None);
        Ok(id)
    }

    /// Ends what runs of a machine.
    pub(super) fn end(&mut self, id: VmId, cause: ExitCause) -> Result<Option<Exit>, Error> {
        let message = if cause == ExitCause::Killed { "it was ended" } else { "the guest powered itself off" };
        let exit = Exit { cause, message: message.into(), at_ms: now_ms() };
        if let Some(vm) = self.vms.get_mut(&id) {
            (vm.run_by, vm.pid, vm.jail) = (None, None, None);
            vm.last_exit = Some(exit.clone());
        }
        self.set_state(id, VmState::Stopped, Some(exit.clone()));
        if self.vms.get(&id).is_some_and(|vm| !vm.configured) {
            self.remove(id);
        }
        Ok(Some(exit))
    }

    fn remove(&mut self, id: VmId) {
        if let Some(vm) = self.vms.get(&id) {
            self.gone.insert(id, vm.last_exit.clone());
        }
        self.record(id, Change::Removed);
        self.vms.remove(&id);
    }

    /// How this start of a machine ended, if it has.
    pub(super) fn ending(&self, id: VmId, generation: u64) -> Option<Option<Exit>> {
        match self.vms.get(&id) {
            None => Some(self.gone.get(&id).cloned().flatten()),
            Some(vm) => (!vm.state.is_live() || vm.generation != generation).then(|| vm.last_exit.clone()),
        }
    }

    pub(super) fn reset(&mut self, what: ResetScope) {
        if what == ResetScope::Switches {
            return;
        }
        let ids: Vec<_> = self.vms.keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(id));
        self.next_id = 1;
    }

    fn set_state(&mut self, id: VmId, state: VmState, exit: Option<Exit>) {
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.state = state;
        }
        self.record(id, Change::State { state, exit });
    }

    fn record(&mut self, id: VmId, change: Change) {
        let Some(vm) = self.vms.get(&id) else { return };
        self.cursor = self.cursor.saturating_add(1);
        let event = Event {
            cursor: self.cursor,
            at_ms: now_ms(),
            vm: id,
            name: vm.name.clone(),
            generation: vm.generation,
            change,
        };
        self.events.push_back(event);
        if self.events.len() > KEPT_EVENTS {
            self.events.pop_front();
        }
    }

    pub(super) fn last_cursor(&self) -> u64 {
        self.cursor
    }

    /// Events after `after`, or all that are kept if it is 0; nothing if there are none yet.
    pub(super) fn events_after(&self, uid: u32, after: u64) -> Result<Option<EventPage>, Error> {
        let oldest = self.events.front().map_or(1, |event| event.cursor);
        if after != 0 && after.saturating_add(1) < oldest {
            let message = format!("events before {oldest} are not kept any more");
            return Err(error(
                ErrorCode::CursorTooOld,
                message,
                "look at everything again, and begin anew without a cursor",
            ));
        }
        let owned = |event: &&Event| self.vms.get(&event.vm).is_some_and(|vm| vm.owner.uid == uid);
        let new = self.events.iter().filter(|event| event.cursor > after);
        let events: Vec<_> = new.filter(|event| uid == 0 || owned(event)).cloned().collect();
        Ok((!events.is_empty()).then_some(EventPage { events, next: self.cursor }))
    }
}
