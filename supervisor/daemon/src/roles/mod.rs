//! The daemon's processes beside the parent: who parses what strangers write, and has no privilege.
//!
//! A role is this program again, executed by its descriptor, with nothing but a [channel] to the parent and what it opened
//! before it [confined](confine) itself, which is before it has read a byte. [`ROLES`] is all of them. [`keeper`] starts one,
//! and starts it again when it dies; what is said over the channel is the matter of its own module.

pub mod channel;
pub mod confine;
pub mod frame;
pub mod keeper;

use std::path::Path;

/// One of the daemon's processes beside the parent.
#[derive(Debug)]
pub struct Role {
    /// What it is called; the process calls itself `stockaded: NAME`.
    pub name: &'static str,
    /// Which system calls it is left with.
    pub filter: seccomp_filters::Role,
    /// How many descriptors it may have.
    pub descriptors: u64,
    /// All that it does: confines itself, with this empty folder to mount its root on, and serves until the parent is gone.
    pub run: fn(&Path) -> Result<(), String>,
}

/// Every role. Each is confined alike but for its filter: see [`confine`].
pub static ROLES: [&Role; 2] = [&crate::control::ROLE, &crate::net::ROLE];

impl Role {
    /// The role with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ROLES.into_iter().find(|role| role.name == name)
    }

    /// What the process calls itself: the first of its arguments.
    pub fn title(&self) -> String {
        format!("stockaded: {}", self.name)
    }
}
