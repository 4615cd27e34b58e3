//! `stockade run` from end to end: the real programs, a real guest, and nothing left of either.
// A test reports what went wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

mod copies;
mod deaths;
mod exit_codes;
mod inspect;
mod options;
mod ordinary_user;
mod rootfs;
mod stockade;
mod streams;
mod terminals;
mod violations;
mod warm;
