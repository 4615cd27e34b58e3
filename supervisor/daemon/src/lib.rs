//! The daemon, `stockaded`: keeps virtual machines that outlive it.
//!
//! [`table`] decides; it does nothing itself, and so can be tested whole.

#![forbid(unsafe_code)]

pub mod table;
