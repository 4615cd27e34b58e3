//! The real `stockade-vmm` on the real KVM, unjailed, with flat guests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking, their helpers too"
)]
#![forbid(unsafe_code)]

mod api_phases;
mod api_requests;
mod api_transport;
mod block;
mod boot;
mod command_line;
mod confinement;
mod connections;
mod console;
mod ends;
mod entropy;
mod hostile_driver;
mod pause;
mod processors;
mod sealed;
mod snapshot;
mod vsock;
