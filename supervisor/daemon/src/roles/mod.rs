//! The daemon's processes beside the parent: who parses what strangers write, and has no privilege.
//!
//! A role is this program again, executed by its descriptor, with nothing but a [channel] to the parent. It
//! confines itself before it has read a byte. [`frame`] is what they say to each other.

pub mod channel;
pub mod frame;
pub mod parent;
mod peers;
