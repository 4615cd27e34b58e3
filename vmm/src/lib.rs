//! The virtual machine monitor: one VM, driven over a JSON API socket.
//!
//! ```text
//! main thread    cli -> process -> controller -> resources -> board, vm      one role while it configures, one while it runs
//! fc_api         server -> http -> routes -> request ---^                    a role of its own
//! fc_vcpu N      stockade-machine, and the buses of the board                a role of its own
//! ```

#![deny(unsafe_code)]

pub mod api;
pub mod board;
pub mod cli;
pub mod config_file;
pub mod controller;
pub mod descriptors;
pub mod events;
pub mod http;
pub mod logger;
pub mod process;
pub mod request;
pub mod resources;
pub mod routes;
pub mod server;
pub mod snapshot;
pub mod sys;
pub mod threads;
pub mod vm;
pub mod wake;
