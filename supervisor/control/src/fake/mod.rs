//! A daemon in memory, for tests of clients: machines that run nothing, and otherwise behave.
//!
//! It knows states, owners, root's privileges and events as the daemon does. It opens no file, so that every absolute
//! path will do. Whatever is asked of a virtual machine called `fail.CODE` fails with that code, `fail.not_enough_memory`
//! for instance; an instance of it as well. What is typed at a console is written to it again.

mod console;
mod server;
mod state;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use stockade_api::{
    Answer, Error, ErrorCode, EventPage, ExitCause, Link, Request, StopMode, SwitchSummary, Target, Version, VmId,
    VmReference, VmState,
};
use tokio::sync::Notify;

use crate::backend::{Attachment, Backend, Reception};
use console::Console;
pub use server::Server;
use state::State;

/// How a [`Fake`] differs from its default: no machines, each caller is who it is, guests run until they are stopped.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who every caller is taken for.
    pub uid: Option<u32>,
    /// How long a guest runs that somebody waits for, before it powers itself off.
    pub guest_life: Option<Duration>,
    /// Names and owners of virtual machines that vm.conf is said to define.
    pub configured: Vec<(String, u32)>,
    /// Every request fails with this.
    pub broken: Option<Error>,
}

/// The daemon.
pub struct Fake {
    settings: Settings,
    state: RefCell<State>,
    changed: Notify,
    consoles: RefCell<BTreeMap<VmId, Console>>,
}

impl Fake {
    /// A daemon that has just been started.
    pub fn new(settings: Settings) -> Self {
        let state = RefCell::new(State::new(&settings.configured));
        Self { settings, state, changed: Notify::new(), consoles: RefCell::default() }
    }

    /// Does something to the state, and wakes who waits for a change of it.
    fn change<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        let done = action(&mut self.state.borrow_mut());
        self.changed.notify_waiters();
        done
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, look: impl Fn(&State) -> Result<Option<T>, Error>) -> Result<T, Error> {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(&self.state.borrow())? {
                return Ok(found);
            }
            changed.await;
        }
    }

    async fn wait(&self, uid: u32, vm: &VmReference) -> Result<Answer, Error> {
        let (id, generation) = self.state.borrow().visible(uid, vm).map(|vm| (vm.id, vm.generation))?;
        let over = self.until(|state| Ok(state.ending(id, generation)));
        let Some(life) = self.settings.guest_life else { return over.await.map(Answer::Exit) };
        match tokio::time::timeout(life, over).await {
            Ok(over) => over.map(Answer::Exit),
            Err(_) => self.change(|state| state.end(id, ExitCause::PowerOff)).map(Answer::Exit),
        }
    }

    async fn events(&self, uid: u32, after: Option<u64>) -> Result<Answer, Error> {
        let Some(after) = after else {
            let next = self.state.borrow().last_cursor();
            return Ok(Answer::Events(EventPage { events: Vec::new(), next }));
        };
        self.until(|state| state.events_after(uid, after)).await.map(Answer::Events)
    }
}

fn root_only(uid: u32) -> Result<(), Error> {
    if uid == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorCode::NotPermitted, "only root may do that", "do it as root"))
}

fn no_question() -> Error {
    Error::new(ErrorCode::Internal, "this is another kind of request", "")
}

/// A connection to a guest that has nothing to say.
fn short_stream() -> Result<Attachment, Error> {
    let pair = std::os::unix::net::UnixStream::pair();
    let (ours, _) = pair.map_err(|error| Error::new(ErrorCode::Internal, format!("make a stream: {error}"), ""))?;
    Ok(Attachment::Stream(ours.into()))
}

impl Reception for Fake {
    fn connection(&self, stream: BorrowedFd<'_>) -> Result<u32, Error> {
        let peer = rustix::net::sockopt::socket_peercred(stream);
        let uid = peer.map(|peer| peer.uid.as_raw());
        let uid = uid.map_err(|error| Error::new(ErrorCode::Internal, format!("ask who is calling: {error}"), ""))?;
        Ok(self.settings.uid.unwrap_or(uid))
    }
}

impl Backend for Fake {
    /// The user.
    type Caller = u32;

    async fn attach(&self, caller: &u32, request: Request) -> Result<Attachment, Error> {
        if let Some(error) = &self.settings.broken {
            return Err(error.clone());
        }
        let (vm, access) = match request {
            Request::Attach { vm, target: Target::Console { access } } => (vm, access),
            Request::Attach { vm, target: Target::Agent } => {
                self.state.borrow_mut().in_state(*caller, &vm, &[VmState::Running])?;
                return short_stream();
            }
            Request::Run { definition } => {
                let ended = self.change(|state| {
                    let id = state.create(*caller, &state::whole(*definition))?;
                    state.end(id, ExitCause::Killed)
                });
                return ended.and_then(|_| short_stream());
            }
            _ => return Err(no_question()),
        };
        let vm = self.state.borrow().to_console(*caller, &vm, access)?;
        let mut consoles = self.consoles.borrow_mut();
        let console = match consoles.entry(vm) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(
                Console::new()
                    .map_err(|error| Error::new(ErrorCode::Internal, format!("make a console: {error}"), ""))?,
            ),
        };
        let attached = console.attach(vm, access);
        attached.map_err(|error| Error::new(ErrorCode::Internal, format!("attach to a console: {error}"), ""))
    }

    async fn ask(&self, caller: &u32, request: Request) -> Result<Answer, Error> {
        let uid = *caller;
        if let Some(error) = &self.settings.broken {
            return Err(error.clone());
        }
        let vm = |id: VmId| self.state.borrow().show(id);
        match request {
            Request::Version => {
                let version = Version { version: env!("CARGO_PKG_VERSION").into(), api: stockade_api::VERSION.into() };
                Ok(Answer::Version(version))
            }
            Request::List { after } => Ok(self.state.borrow().list(uid, after)),
            Request::Show { vm: reference } => vm(self.state.borrow().visible(uid, &reference)?.id),
            Request::Start { vm: reference } => vm(self.change(|state| state.start(uid, &reference))?),
            Request::Create { definition } => vm(self.change(|state| state.create(uid, &definition))?),
            Request::Pause { vm: reference } => vm(self.change(|state| state.pause(uid, &reference))?),
            Request::Unpause { vm: reference } => vm(self.change(|state| state.unpause(uid, &reference))?),
            Request::Stop { vm: reference, mode } => {
                let cause = if mode == StopMode::Force { ExitCause::Killed } else { ExitCause::PowerOff };
                self.change(|state| {
                    let id = state.in_state(uid, &reference, &[VmState::Running, VmState::Paused])?;
                    state.end(id, cause)
                })
                .map(Answer::Exit)
            }
            Request::Wait { vm } => self.wait(uid, &vm).await,
            Request::Attach { .. } | Request::Run { .. } => Err(no_question()),
            Request::Events { after } => self.events(uid, after).await,
            Request::Switches => Ok(Answer::Switches(switches())),
            Request::Reload | Request::Log { .. } => root_only(uid).map(|()| Answer::Done),
            Request::Load { path } => {
                root_only(uid)?;
                state::absolute("path", &path).map(|()| Answer::Done)
            }
            Request::Reset { what } => {
                root_only(uid)?;
                self.change(|state| state.reset(what));
                Ok(Answer::Done)
            }
        }
    }
}

/// One for each thing that there is to say of a switch.
fn switches() -> Vec<SwitchSummary> {
    let switch =
        |name: &str, enabled, link| SwitchSummary { name: name.into(), interface: format!("br-{name}"), enabled, link };
    vec![
        switch("uplink", true, Some(Link { bridge: true, up: true, mtu: 1500 })),
        switch("lan", true, Some(Link { bridge: false, up: false, mtu: 9000 })),
        switch("old", false, None),
    ]
}
