//! Prepares, starts, watches and cleans up virtual machines.

#![forbid(unsafe_code)]

pub mod images;
pub mod installation;
pub mod request;
pub mod session;
pub mod text;
pub mod transfer;
