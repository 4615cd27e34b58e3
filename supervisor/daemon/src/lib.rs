//! The daemon, `stockaded`: keeps virtual machines that outlive it.
//!
//! [`table`] decides, and does nothing itself, so that it can be tested whole. [`executor`] does what it wants done:
//! [`machine`] is a task for each machine, [`store`] what the next daemon has to know, [`open`] how files of tenants are
//! opened, [`consoles`] what clients of a console get. [`roles`] is about the daemon's other processes, [`control`] and
//! [`net`]. [`manager`] and [`messages`] are what a service manager gets to know.

#![deny(unsafe_code)]

pub mod arguments;
mod blueprint;
mod confine;
pub mod consoles;
pub mod control;
pub mod daemon;
pub mod executor;
pub mod machine;
pub mod manager;
pub mod messages;
pub mod net;
pub mod open;
pub mod paths;
pub mod roles;
pub mod store;
mod sweep;
mod sys;
pub mod table;
