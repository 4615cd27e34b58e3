//! The language of vm.conf: parsed, checked, compared, printed.

#![forbid(unsafe_code)]

pub mod model;

pub use model::Config;
