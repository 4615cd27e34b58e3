//! What can happen, and what is to be done about it.

use stockade_api::{Answer, Error, ExitCause, Request, SwitchSummary, Target, Verbosity, VmId};
use stockade_config::Config;

use super::ids::Ids;
use super::permission::Caller;
use super::record::{Jail, Record};

/// A request, until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A client asks for something.
    Request {
        /// What the answer is to be sent to.
        id: RequestId,
        /// Who asks.
        caller: Caller,
        /// What for.
        request: Box<Request>,
    },
    /// The client of this request is gone. An answer that comes nevertheless is lost.
    Abandoned {
        /// Which.
        id: RequestId,
    },
    /// Something is heard of a machine.
    Machine {
        /// Whose.
        vm: VmId,
        /// Of which of its starts.
        generation: u64,
        /// What.
        event: MachineEvent,
    },
    /// A configuration was read, and is to be in force from now on.
    Configured {
        /// All of it.
        config: Box<Config>,
        /// Who asked for it.
        request: Option<RequestId>,
    },
    /// There was one to be read, but it can't be used.
    NotConfigured {
        /// Why.
        error: Error,
        /// Who asked for it.
        request: RequestId,
    },
    /// Somebody goes after each machine that was saved. Comes once, after the configuration; what is found of them comes later.
    Recovered,
    /// The host's interfaces in the place of switches were looked up, or could not be.
    SwitchesLookedUp {
        /// For this request.
        request: RequestId,
        /// What came of it.
        answer: Result<Vec<SwitchSummary>, Error>,
    },
    /// Time has passed.
    Time,
    /// The daemon is to end.
    ShutDown,
}

/// What is heard of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The vmm is in its jail.
    Confined(Jail),
    /// The guest runs.
    Started,
    /// There was never a jail: the daemon died before it could make one.
    NeverLaunched,
    /// The host's part of the start failed; nothing is left of it.
    NotStarted(Error),
    /// The guest's processors stand still.
    Paused,
    /// They go on.
    Resumed,
    /// The vmm could not let them stand still, or go on.
    NotPaused(String),
    /// It has ended, and nothing is left of it.
    Ended {
        /// Why, as far as the vmm and its warden know.
        cause: ExitCause,
        /// The same in words.
        message: String,
    },
}

/// Something that is to be done. All but the first three are started, and what comes of them is an [`Input`] later.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write a record where the next daemon finds it.
    Save(Box<Record>),
    /// Remove that record.
    Forget(VmId),
    /// Write the numbers of virtual machines where the next daemon finds them.
    SaveIds(Ids),
    /// Make a jail and start a machine in it.
    Launch(Box<Record>),
    /// Ask the guest to stop.
    Ask {
        /// Whose.
        vm: VmId,
        /// Of which start.
        generation: u64,
    },
    /// End the machine.
    Kill {
        /// Whose.
        vm: VmId,
        /// Of which start.
        generation: u64,
    },
    /// Have the guest's processors stand still.
    Pause {
        /// Whose.
        vm: VmId,
        /// Of which start.
        generation: u64,
    },
    /// Have them go on.
    Resume {
        /// Whose.
        vm: VmId,
        /// Of which start.
        generation: u64,
    },
    /// Read a configuration: a file that is added to the one in force, or else the daemon's own.
    Configure {
        /// Absolute path of a file.
        path: Option<String>,
        /// Who asked for it.
        request: RequestId,
    },
    /// Look the host's interfaces up in the place of these switches.
    LookUp {
        /// For this request.
        request: RequestId,
        /// The switches, without their links.
        switches: Vec<SwitchSummary>,
    },
    /// Log this much from now on.
    Log(Verbosity),
    /// Give the client of this request, which is answered by that, the connection that a guest's agent begins with.
    GiveAgent {
        /// Which request.
        id: RequestId,
        /// Whose agent.
        vm: VmId,
        /// Of which start.
        generation: u64,
    },
    /// Attach the client of this request, which is answered by that, to something of a virtual machine.
    Attach {
        /// Which request.
        id: RequestId,
        /// To which virtual machine.
        vm: VmId,
        /// To what of it.
        target: Target,
    },
    /// Answer a request.
    Answer {
        /// Which.
        id: RequestId,
        /// With this.
        answer: Result<Answer, Error>,
    },
    /// End the daemon.
    Exit,
}
