//! The verbs of the daemon: the real program, over a real socket, with a daemon in memory or one that says what the test says.
// A test reports what went wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

mod failures;
mod harness;
mod logs;
mod presentation;
mod shortened;
mod verbs;
