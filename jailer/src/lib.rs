//! The jail, as a library of steps and the binary that runs them.
//!
//! [`plan`] is what the supervisor asks for, [`warden`] what it hears back. [`jail`] has the steps in their order, [`sealed`] puts
//! them together, [`watch`] is what the warden does from then on, and [`console`] what it keeps of the guest's console.
//! [`supervisor`], [`reports`] and [`journal`] are for a VM that outlives its supervisor.

#![deny(unsafe_code)]

pub mod cgroup;
pub mod compatible;
mod confirm;
pub mod console;
pub mod control;
pub mod error;
pub mod folder;
pub mod jail;
pub mod journal;
mod mount_namespace;
mod pace;
pub mod plan;
mod ptrace;
pub mod reports;
pub mod role;
pub mod sealed;
pub mod supervisor;
mod sys;
pub mod tracer;
pub mod unveil;
mod user_namespace;
pub mod violation;
pub mod warden;
pub mod watch;

pub use sys::{begin, inherited};
