//! One virtual machine at work: a task that opens its files, launches it, passes on what is heard of it, and does what the
//! table wants done with it, until it is gone.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stockade_api::{Error, ErrorCode, ExitCause, VmId};
use stockade_supervisor::installation::Installation;
use stockade_supervisor::machine::MachineEnd;
use stockade_supervisor::machine::detached::{Detached, Notice};
use stockade_supervisor::machine::launch_detached::launch_detached;
use stockade_supervisor::machine::request::{self, RequestError};
use stockade_supervisor::machine::state::State;
use stockade_supervisor::request::VmName;
use stockade_supervisor::text::chain;
use stockade_vmm_api::exit::ExitReason;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender};

use crate::blueprint::blueprint;
use crate::store::Store;
use crate::table::{Input, Jail, MachineEvent, Record};

/// How long to wait before a guest's agent is asked for again.
const AGENT_PAUSE: Duration = Duration::from_millis(200);

/// What all of them share.
#[derive(Debug)]
pub struct Workshop {
    /// The daemon's files.
    pub store: Store,
    /// Stockade's programs, and the default guest.
    pub installation: Installation,
    /// Where jails are.
    pub jails: State,
    /// Connections of agents whose clients have not got them yet.
    pub agents: Agents,
}

/// The host's ends of agents' connections, on their way to the clients that they are for.
#[derive(Debug, Default)]
pub struct Agents(Mutex<HashMap<(VmId, u64), OwnedFd>>);

impl Agents {
    /// Keeps that of one start of a virtual machine.
    fn keep(&self, vm: VmId, generation: u64, host_end: OwnedFd) {
        self.lock().insert((vm, generation), host_end);
    }

    /// Gives it away, once.
    pub fn take(&self, vm: VmId, generation: u64) -> Option<OwnedFd> {
        self.lock().remove(&(vm, generation))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(VmId, u64), OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be done with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ask the guest to stop.
    Ask,
    /// End it.
    Kill,
    /// Have it stand still.
    Pause,
    /// Have it go on.
    Resume,
}

/// Who is told.
#[derive(Debug, Clone)]
struct Ear {
    vm: VmId,
    generation: u64,
    inputs: UnboundedSender<Input>,
}

impl Ear {
    fn tell(&self, event: MachineEvent) {
        // Without a listener the daemon is at its end.
        let _ = self.inputs.send(Input::Machine { vm: self.vm, generation: self.generation, event });
    }
}

/// Launches a machine, and stays with it.
pub async fn launch(
    workshop: Arc<Workshop>,
    record: Record,
    orders: UnboundedReceiver<Order>,
    inputs: UnboundedSender<Input>,
) {
    let ear = Ear { vm: record.id, generation: record.generation, inputs };
    let opener = workshop.clone();
    let opened = tokio::task::spawn_blocking(move || blueprint(&opener, &record)).await;
    let launched = opened.unwrap_or_else(|error| Err(internal(&error))).and_then(|(blueprint, agent)| {
        let launched = launch_detached(&workshop.jails, blueprint);
        let launched =
            launched.map_err(|error| Error::new(ErrorCode::StartFailed, chain(&error), "look at the daemon's log"))?;
        if let Some(host_end) = agent {
            workshop.agents.keep(ear.vm, ear.generation, host_end);
        }
        Ok(launched)
    });
    match launched {
        Ok(machine) => accompany(machine, orders, &ear).await,
        Err(error) => ear.tell(MachineEvent::NotStarted(error)),
    }
    // Of one that nobody came for.
    drop(workshop.agents.take(ear.vm, ear.generation));
}

/// Takes over a machine of the daemon before this one, and stays with it. `adopting` is dropped as soon as it has it.
pub async fn take_over(
    workshop: Arc<Workshop>,
    record: Record,
    orders: UnboundedReceiver<Order>,
    inputs: UnboundedSender<Input>,
    adopting: Sender<()>,
) {
    let ear = Ear { vm: record.id, generation: record.generation, inputs };
    let taken = record.jail_name().parse::<VmName>().map_err(|error| internal(&error)).and_then(|jail| {
        let journal = workshop.store.journal(jail.as_str()).map_err(|error| internal(&error))?;
        let known = record.jail.as_ref().map(|jail| (jail.pid, jail.identity));
        Detached::take_over(&workshop.jails, &jail, journal, known).map_err(|error| internal(&error))
    });
    drop(adopting);
    match taken {
        Ok(machine) => accompany(machine, orders, &ear).await,
        Err(error) => ear.tell(MachineEvent::Ended { cause: ExitCause::Unknown, message: error.to_string() }),
    }
}

async fn accompany(mut machine: Detached, mut orders: UnboundedReceiver<Order>, ear: &Ear) {
    loop {
        tokio::select! {
            biased;
            Some(order) = orders.recv() => obey(&machine, order, ear),
            notice = machine.next() => match notice {
                Notice::Confined { pid, identity } => ear.tell(MachineEvent::Confined(Jail { pid, identity })),
                Notice::Started => ear.tell(MachineEvent::Started),
                Notice::Paused => ear.tell(MachineEvent::Paused),
                Notice::Resumed => ear.tell(MachineEvent::Resumed),
                Notice::Gone { end, left_behind } => {
                    for left in left_behind {
                        log::error!("virtual machine {}: left behind: {left}", ear.vm);
                    }
                    ear.tell(end.map_or(MachineEvent::NeverLaunched, |end| event_of(&end)));
                    return;
                }
            },
        }
    }
}

fn obey(machine: &Detached, order: Order, ear: &Ear) {
    let (folder, ear) = (machine.folder().to_owned(), ear.clone());
    match order {
        Order::Kill => machine.kill(),
        Order::Ask => drop(tokio::spawn(async move { ask_to_stop(&folder, &ear).await })),
        Order::Pause => drop(tokio::spawn(async move {
            if let Err(error) = request::pause(&folder).await {
                ear.tell(MachineEvent::NotPaused(chain(&error)));
            }
        })),
        Order::Resume => drop(tokio::spawn(async move {
            if let Err(error) = request::resume(&folder).await {
                ear.tell(MachineEvent::NotPaused(chain(&error)));
            }
        })),
    }
}

/// By its agent, or else by the keys that every system knows. A guest that boots has no agent yet, so that one is asked for
/// again and again. Who does nothing of that is ended when its time is over.
async fn ask_to_stop(folder: &Path, ear: &Ear) {
    let Err(no_agent) = request::power_off(folder).await else { return };
    if let Err(error) = request::ctrl_alt_del(folder).await {
        log::info!("virtual machine {}: it can't be asked to stop: {}; {}", ear.vm, chain(&no_agent), chain(&error));
    }
    // Its sockets go with the machine.
    while matches!(request::power_off(folder).await, Err(RequestError::NoAgent | RequestError::Silence)) {
        tokio::time::sleep(AGENT_PAUSE).await;
    }
}

fn event_of(end: &MachineEnd) -> MachineEvent {
    let cause = match end {
        MachineEnd::Refused(message) => {
            return MachineEvent::NotStarted(Error::new(ErrorCode::StartFailed, message.clone(), ""));
        }
        MachineEnd::Guest { reason, .. } => match reason {
            ExitReason::Reset => ExitCause::Reset,
            ExitReason::PowerOff => ExitCause::PowerOff,
            ExitReason::Halted => ExitCause::Halted,
            ExitReason::TripleFault | ExitReason::Panicked | ExitReason::InternalError | ExitReason::EntryFailure => {
                ExitCause::Crashed
            }
        },
        MachineEnd::Violation(_) => ExitCause::Violated,
        MachineEnd::Warden(_) => ExitCause::Unknown,
        _ => ExitCause::Failed,
    };
    MachineEvent::Ended { cause, message: end.to_string() }
}

pub(crate) fn internal(error: &dyn std::error::Error) -> Error {
    Error::new(ErrorCode::Internal, chain(error), "look at the daemon's log")
}
