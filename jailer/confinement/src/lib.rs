//! The confinement of a process: its layers, and what the kernel says of them.

#![forbid(unsafe_code)]

mod layer;

pub use layer::{Layer, LayerReport};
