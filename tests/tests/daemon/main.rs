//! `stockaded` from end to end: the real programs, real guests, and nothing left of either. Each test has a daemon of its own,
//! in folders of its own.
// A test reports what went wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

mod command_line;
mod compromised;
mod consoles;
mod daemon;
mod install;
mod kills;
mod leftovers;
mod life;
mod linux;
mod outliving;
mod roles;
mod runs;
mod service;
mod switches;
mod tenant;
mod tenants;
mod terminals;
mod violations;
