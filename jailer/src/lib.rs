//! The jail, as a library of steps and the binary that runs them.
//!
//! [`plan`] is what the supervisor asks for, [`warden`] what it hears back.

#![deny(unsafe_code)]

pub mod plan;
pub mod warden;
