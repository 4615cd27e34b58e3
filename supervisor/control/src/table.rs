//! Every operation of the API.

use hyper::Method;
use stockade_api::body::{self, Ended, Load, Reset, Stop, Switches, VmPage};
use stockade_api::request::{AGENT_PROTOCOL, NewRun, NewVm};
use stockade_api::{ErrorCode, EventPage, Request, Target, Version, VmId, VmSummary};

use crate::console::{self, Attach, Log};
use crate::events::{self, Follow};
use crate::failure;
use crate::operation::{Input, Operation, Output, Parameter, Place, Shape, Task, Values};

const VM: Parameter =
    Parameter { name: "vm", place: Place::Path, description: "Its number, or else its name.", values: Values::Text };

const AFTER_VM: Parameter = Parameter {
    name: "after",
    place: Place::Query,
    description: "Only those above this number.",
    values: Values::Numbers { least: 0, most: u32::MAX as u64 },
};

/// The header that says what the connection becomes.
macro_rules! upgrade {
    ($protocol:expr) => {
        Parameter {
            name: "Upgrade",
            place: Place::RequiredHeader,
            description: "With `Connection: Upgrade`, as in RFC 9110, section 7.8.",
            values: Values::Words(&[$protocol]),
        }
    };
}

/// What can fail when a guest is started.
macro_rules! start_failures {
    ($($more:ident),*) => {
        &[
            $(ErrorCode::$more,)*
            ErrorCode::AlreadyRunning,
            ErrorCode::NothingToBoot,
            ErrorCode::Unsupported,
            ErrorCode::FileNotUsable,
            ErrorCode::FileInUse,
            ErrorCode::ResourceInUse,
            ErrorCode::RestartedTooQuickly,
            ErrorCode::QuotaExceeded,
            ErrorCode::NotEnoughMemory,
            ErrorCode::NotEnoughCpus,
            ErrorCode::StartFailed,
            ErrorCode::VmmFailed,
            ErrorCode::Ended,
        ]
    };
}

/// Every operation, in the order of the document.
pub(crate) static OPERATIONS: &[Operation] = &[
    Operation {
        method: Method::GET,
        path: "/version",
        id: "version",
        summary: "Which daemon this is",
        description: "",
        parameters: &[],
        input: Input::None,
        output: Output::Found(Shape::of::<Version>()),
        failures: &[],
        task: |_| Ok(Task::Ask(Request::Version)),
    },
    Operation {
        method: Method::GET,
        path: "/vms",
        id: "list_vms",
        summary: "Virtual machines that the caller may see",
        description: "In the order of their numbers, a page at a time: ask again after the last one's number while there are more.",
        parameters: &[AFTER_VM],
        input: Input::None,
        output: Output::Found(Shape::of::<VmPage>()),
        failures: &[],
        task: |call| {
            let after = call.number(AFTER_VM.name, 0, u32::MAX.into())?.unwrap_or_default();
            let after = u32::try_from(after).map_err(|error| failure::internal(error.to_string()))?;
            Ok(Task::Ask(Request::List { after: VmId(after) }))
        },
    },
    Operation {
        method: Method::POST,
        path: "/vms",
        id: "create_vm",
        summary: "Make a virtual machine and start it",
        description: "It is gone once it has stopped. Answered once the guest runs.",
        parameters: &[],
        input: Input::Required(Shape::of::<NewVm>()),
        output: Output::Created(Shape::of::<VmSummary>()),
        failures: start_failures!(InvalidName, InvalidValue, TemplateNotFound, Exists, IdsExhausted),
        task: |call| Ok(Task::Ask(Request::Create { definition: Box::new(call.body::<NewVm>()?) })),
    },
    Operation {
        method: Method::GET,
        path: "/vms/{vm}",
        id: "show_vm",
        summary: "One virtual machine",
        description: "How it ended the last time is in `last_exit`.",
        parameters: &[VM],
        input: Input::None,
        output: Output::Found(Shape::of::<VmSummary>()),
        failures: &[ErrorCode::NotFound],
        task: |call| Ok(Task::Ask(Request::Show { vm: call.vm()? })),
    },
    Operation {
        method: Method::POST,
        path: "/vms/{vm}/start",
        id: "start_vm",
        summary: "Start a virtual machine that is known",
        description: "Answered once the guest runs.",
        parameters: &[VM],
        input: Input::None,
        output: Output::Found(Shape::of::<VmSummary>()),
        failures: start_failures!(NotFound, Stopping),
        task: |call| Ok(Task::Ask(Request::Start { vm: call.vm()? })),
    },
    Operation {
        method: Method::POST,
        path: "/vms/{vm}/stop",
        id: "stop_vm",
        summary: "Stop a virtual machine",
        description: "Answered once it is over. Without a body, the guest is asked to.",
        parameters: &[VM],
        input: Input::Optional(Shape::of::<Stop>()),
        output: Output::Found(Shape::of::<Ended>()),
        failures: &[ErrorCode::NotFound, ErrorCode::NotRunning, ErrorCode::Stopping, ErrorCode::VmmFailed],
        task: |call| Ok(Task::Ask(Request::Stop { vm: call.vm()?, mode: call.body_or_default::<Stop>()?.mode })),
    },
    Operation {
        method: Method::POST,
        path: "/vms/{vm}/wait",
        id: "wait_for_vm",
        summary: "Wait until a virtual machine does not run any more",
        description: "Answered at once for one that has ended already.",
        parameters: &[VM],
        input: Input::None,
        output: Output::Found(Shape::of::<Ended>()),
        failures: &[ErrorCode::NotFound],
        task: |call| Ok(Task::Ask(Request::Wait { vm: call.vm()? })),
    },
    Operation {
        method: Method::POST,
        path: "/vms/{vm}/pause",
        id: "pause_vm",
        summary: "Have a guest's processors stand still",
        description: "",
        parameters: &[VM],
        input: Input::None,
        output: Output::Found(Shape::of::<VmSummary>()),
        failures: &[
            ErrorCode::NotFound,
            ErrorCode::NotRunning,
            ErrorCode::Stopping,
            ErrorCode::AlreadyPaused,
            ErrorCode::VmmFailed,
            ErrorCode::Ended,
        ],
        task: |call| Ok(Task::Ask(Request::Pause { vm: call.vm()? })),
    },
    Operation {
        method: Method::POST,
        path: "/vms/{vm}/unpause",
        id: "unpause_vm",
        summary: "Have a guest's processors go on",
        description: "",
        parameters: &[VM],
        input: Input::None,
        output: Output::Found(Shape::of::<VmSummary>()),
        failures: &[
            ErrorCode::NotFound,
            ErrorCode::NotRunning,
            ErrorCode::Stopping,
            ErrorCode::NotPaused,
            ErrorCode::VmmFailed,
            ErrorCode::Ended,
        ],
        task: |call| Ok(Task::Ask(Request::Unpause { vm: call.vm()? })),
    },
    Operation {
        method: Method::POST,
        path: "/vms/{vm}/exec",
        id: "reach_agent",
        summary: "Become a connection to the agent of a guest",
        description: "The connection carries the protocol of `stockade-agent`, by which any number of commands can be run in the guest, \
            each with its streams. What runs by it is ended with the connection. `stockade exec` speaks it.",
        parameters: &[VM, upgrade!(AGENT_PROTOCOL)],
        input: Input::None,
        output: Output::Stream(AGENT_PROTOCOL),
        failures: &[
            ErrorCode::NotFound,
            ErrorCode::NotRunning,
            ErrorCode::Stopping,
            ErrorCode::NoAgent,
            ErrorCode::AgentNotReady,
            ErrorCode::VmmFailed,
            ErrorCode::UpgradeRequired,
        ],
        task: |call| Ok(Task::Attach(Attach::to(Request::Attach { vm: call.vm()?, target: Target::Agent }))),
    },
    Operation {
        method: Method::POST,
        path: "/run",
        id: "run",
        summary: "Make a virtual machine for a command and start it",
        description: "Anybody who may use this API may, within their quota and with files that they may open. Answered once the guest \
            runs: the connection becomes the first one of its agent, with which the client prepares the guest and runs commands, in the \
            protocol of `stockade-agent`. The virtual machine is ended, and gone, with this connection.",
        parameters: &[upgrade!(AGENT_PROTOCOL)],
        input: Input::Required(Shape::of::<NewRun>()),
        output: Output::Stream(AGENT_PROTOCOL),
        failures: start_failures!(InvalidName, InvalidValue, Exists, IdsExhausted, UpgradeRequired),
        task: |call| Ok(Task::Attach(Attach::to(Request::Run { definition: Box::new(call.body::<NewRun>()?) }))),
    },
    Operation {
        method: Method::GET,
        path: "/vms/{vm}/console",
        id: "attach_console",
        summary: "Become the console of a virtual machine",
        description: console::DESCRIPTION,
        parameters: &[
            VM,
            console::ACCESS_PARAMETER,
            console::AFTER_PARAMETER,
            console::TAIL_PARAMETER,
            upgrade!(console::PROTOCOL),
        ],
        input: Input::None,
        output: Output::Stream(console::PROTOCOL),
        failures: &[ErrorCode::NotFound, ErrorCode::NotRunning, ErrorCode::ConsoleInUse, ErrorCode::UpgradeRequired],
        task: |call| Ok(Task::Attach(Attach::to_console(call)?)),
    },
    Operation {
        method: Method::GET,
        path: "/vms/{vm}/log",
        id: "read_log",
        summary: "What a guest wrote to its console",
        description: console::LOG_DESCRIPTION,
        parameters: &[VM, console::AFTER_PARAMETER, console::TAIL_PARAMETER, console::FOLLOW_PARAMETER],
        input: Input::None,
        output: Output::Log,
        failures: &[ErrorCode::NotFound],
        task: |call| Ok(Task::Log(Log::read(call)?)),
    },
    Operation {
        method: Method::GET,
        path: "/events",
        id: "list_events",
        summary: "What happens, as it happens",
        description: events::DESCRIPTION,
        parameters: events::PARAMETERS,
        input: Input::None,
        output: Output::Events(Shape::of::<EventPage>()),
        failures: &[ErrorCode::CursorTooOld],
        task: |call| Ok(Task::Follow(Follow::read(call)?)),
    },
    Operation {
        method: Method::GET,
        path: "/switches",
        id: "list_switches",
        summary: "Switches that the caller may see",
        description: "Root and, with `status visible all`, everybody sees all of vm.conf's, others those that a virtual machine of theirs is plugged into. What the host has in their place is looked up when this is asked.",
        parameters: &[],
        input: Input::None,
        output: Output::Found(Shape::of::<Switches>()),
        failures: &[],
        task: |_| Ok(Task::Ask(Request::Switches)),
    },
    Operation {
        method: Method::POST,
        path: "/reload",
        id: "reload",
        summary: "Read vm.conf again",
        description: "A broken file changes nothing. Root only.",
        parameters: &[],
        input: Input::None,
        output: Output::Done,
        failures: &[ErrorCode::InvalidConfiguration, ErrorCode::FileNotUsable, ErrorCode::Exists],
        task: |_| Ok(Task::Ask(Request::Reload)),
    },
    Operation {
        method: Method::POST,
        path: "/load",
        id: "load",
        summary: "Read another file, and add what it defines",
        description: "A broken file changes nothing. Root only.",
        parameters: &[],
        input: Input::Required(Shape::of::<Load>()),
        output: Output::Done,
        failures: &[
            ErrorCode::InvalidConfiguration,
            ErrorCode::FileNotUsable,
            ErrorCode::InvalidValue,
            ErrorCode::Exists,
        ],
        task: |call| Ok(Task::Ask(Request::Load { path: call.body::<Load>()?.path })),
    },
    Operation {
        method: Method::POST,
        path: "/reset",
        id: "reset",
        summary: "Forget what was configured, and end what runs of it",
        description: "Without a body, everything. Root only.",
        parameters: &[],
        input: Input::Optional(Shape::of::<Reset>()),
        output: Output::Done,
        failures: &[ErrorCode::VmmFailed],
        task: |call| Ok(Task::Ask(Request::Reset { what: call.body_or_default::<Reset>()?.what })),
    },
    Operation {
        method: Method::POST,
        path: "/log",
        id: "log",
        summary: "Say how much the daemon logs",
        description: "Root only.",
        parameters: &[],
        input: Input::Required(Shape::of::<body::Log>()),
        output: Output::Done,
        failures: &[],
        task: |call| Ok(Task::Ask(Request::Log { verbosity: call.body::<body::Log>()?.verbosity })),
    },
    Operation {
        method: Method::GET,
        path: "/openapi.json",
        id: "describe",
        summary: "This document",
        description: "",
        parameters: &[],
        input: Input::None,
        output: Output::Document,
        failures: &[],
        task: |_| Ok(Task::Describe),
    },
];
