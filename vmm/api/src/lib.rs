//! Types of the per-VM API, shared by the server in `stockade-vmm` and its clients. No I/O.
//!
//! [`event`] and [`exit`] are what a vmm tells the process that started it.

#![forbid(unsafe_code)]

pub mod cpu_template;
pub mod event;
pub mod exit;
