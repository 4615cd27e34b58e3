//! Types of the control API, shared by `stockaded` and its clients.
//!
//! Each type has one meaning in two encodings: JSON towards clients, and postcard between the daemon's processes. The
//! latter does not describe itself, so no field is ever left out, and enums carry their names outside.
//!
//! | module | what |
//! |---|---|
//! | [`vm`] | what there is to know about a virtual machine |
//! | [`switch`] | and about a switch |
//! | [`request`] | what can be asked for, and what comes back |
//! | [`event`] | what happened, in an order that a client can resume at |
//! | [`body`] | what else is the body of a request or an answer in JSON |
//! | [`error`] | why something was not done |

#![forbid(unsafe_code)]

pub mod body;
pub mod error;
pub mod event;
pub mod request;
pub mod switch;
pub mod vm;
mod whole;

pub use error::{Error, ErrorCode};
pub use event::{Event, EventPage};
pub use request::{Answer, Attached, ConsoleAccess, Request, ResetScope, StopMode, Target, Verbosity, Version};
pub use switch::{Link, SwitchSummary};
pub use vm::{Exit, ExitCause, InterfaceSummary, Owner, VmId, VmReference, VmState, VmSummary};

/// Version of the API: the first part of every path.
pub const VERSION: &str = "v1";
