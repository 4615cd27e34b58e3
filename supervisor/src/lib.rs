//! Prepares, starts, watches and cleans up virtual machines.
//!
//! [`run`] is the story of one command in one virtual machine, [`exec`] that of one in a virtual machine that is there;
//! [`inspection`] looks at what came of it; everything else is what these need.

#![forbid(unsafe_code)]

pub mod client;
pub mod command;
pub mod config;
pub mod exec;
pub mod images;
pub mod inspection;
pub mod installation;
pub mod machine;
pub mod phases;
pub mod report;
pub mod request;
pub mod run;
pub mod session;
pub mod text;
pub mod transfer;
pub mod warm;
