//! The virtual machine monitor: one VM, driven over a JSON API socket.

#![deny(unsafe_code)]

pub mod http;
pub mod request;
pub mod routes;
pub mod server;
