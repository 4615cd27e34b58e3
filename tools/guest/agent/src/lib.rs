//! PID 1 of the default guest: runs commands for the host, over the protocol of [`stockade_guest_protocol`].
//!
//! One thread waits for everything that can happen ([`Agent::serve`]): a session's socket, each pipe and terminal of each
//! command, and the ends of processes. Transfers of files have a thread each, with pipes to the first one, so to it they look
//! like commands. Nothing is buffered beyond the protocol's windows.
//!
//! The library serves connections, and does not care where they came from; how a guest starts and ends is in [`system`],
//! and how it reaches its host in [`vsock`].

mod agent;
mod channel;
mod command;
pub mod console;
mod orphans;
mod session;
mod stream;
mod sys;
pub mod system;
mod transfer;
pub mod vsock;

pub use agent::{Agent, Connect, Prepare, Renew, ServeError, Verdict};
pub use orphans::Orphans;
