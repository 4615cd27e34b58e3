//! Prepares, starts, watches and cleans up virtual machines.
//!
//! [`run`] is the story of one command in one virtual machine; everything else is what that needs.

#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod images;
pub mod installation;
pub mod machine;
pub mod phases;
pub mod report;
pub mod request;
pub mod run;
pub mod session;
pub mod text;
pub mod transfer;
