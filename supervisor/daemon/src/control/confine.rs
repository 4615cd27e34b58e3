//! How `control` is confined: before the first byte of a client.

use std::path::Path;

use seccomp_filters::Role;
use stockade_jailer::role::{self, RoleJail};

/// The user and group that it is if the host has no user `_stockade`: one that nobody has, below those that are leased.
const FALLBACK_ID: u32 = 0x6fff_fff0;
/// The user that it is.
const USER: &str = "_stockade";

/// Gives up everything but what is open.
pub(super) fn enter(empty: &Path) -> Result<(), String> {
    let host = stockade_config::host::RealHost;
    let known = |found: std::io::Result<Option<u32>>| found.ok().flatten().unwrap_or(FALLBACK_ID);
    let uid = known(stockade_config::host::Host::user(&host, USER));
    let gid = known(stockade_config::host::Host::group(&host, USER));
    role::confine(&RoleJail { uid, gid, empty, descriptors: 1024 }).map_err(|error| error.explain())?;
    Ok(())
}

/// Gives up every system call that serving clients does not take.
pub(super) fn pledge() -> Result<(), String> {
    seccomp_filters::pledge(Role::Control).map_err(|error| error.to_string())
}
