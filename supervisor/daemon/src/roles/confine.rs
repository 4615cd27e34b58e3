//! How a role is confined: before the first byte that somebody else has written.
//!
//! By its own user, an empty root, namespaces without anything in them, no capability and none to be had, Landlock, and
//! a filter of its own ([`super::Role::filter`]).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use stockade_config::host::{Host, RealHost};
use stockade_jailer::role::{self, RoleJail};

use super::Role;

/// The user and group that roles are if the host has no user `_stockade`: one that nobody has, below those that are leased.
pub const FALLBACK_ID: u32 = 0x6fff_fff0;
/// The user, and its group.
pub const USER: &str = "_stockade";
/// The descriptor of a role's channel.
pub const CHANNEL: i32 = 3;
/// The descriptor of the file for a role's record, to which nothing can be written once the role is confined.
pub const RECORD: i32 = 4;

/// The user and group ids of every role.
pub fn ids() -> (u32, u32) {
    let known = |found: io::Result<Option<u32>>| found.ok().flatten().unwrap_or(FALLBACK_ID);
    (known(RealHost.user(USER)), known(RealHost.group(USER)))
}

/// The channel to the parent, which was inherited.
///
/// # Errors
/// It was not started by a parent.
pub fn inherited_channel() -> Result<OwnedFd, String> {
    let channel = stockade_jailer::inherited(CHANNEL).and_then(|channel| {
        rustix::io::fcntl_setfd(&channel, rustix::io::FdFlags::CLOEXEC)?;
        Ok(channel)
    });
    let channel = channel.map_err(|error| format!("no parent: {error}"))?;
    log::debug!("the channel is descriptor {}", channel.as_raw_fd());
    Ok(channel)
}

/// Gives up everything but what is open, with an empty folder to mount a root on, and writes down what that comes to.
///
/// # Errors
/// The step that failed, in words.
pub fn enter(role: &Role, empty: &Path) -> Result<(), String> {
    let (uid, gid) = ids();
    let jail = RoleJail { uid, gid, empty, descriptors: role.descriptors };
    let hidden = role::confine(&jail).map_err(|error| error.explain())?;
    let written = stockade_jailer::inherited(RECORD).and_then(|record| {
        let text = serde_json::to_vec(&jail.record(role.name, &hidden)?)?;
        File::from(record).write_all(&text)
    });
    written.map_err(|error| format!("write the record: {error}"))?;
    // Not before: the record is the last file that it writes.
    role::limit_files().map_err(|error| error.explain())
}

/// Gives up every system call that the role does not take.
///
/// # Errors
/// The kernel has no filters.
pub fn pledge(role: &Role) -> Result<(), String> {
    seccomp_filters::pledge(role.filter).map_err(|error| error.to_string())
}
