//! The user namespace in which an ordinary user has the rights that building a jail takes (user_namespaces(7)).

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Makes the calling process, which has one thread, root of a new user namespace, in which nobody else exists.
///
/// # Errors
/// The host does not allow that to ordinary users.
pub(crate) fn enter() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let denied = |error: io::Error| {
        let remedy = "this host may keep user namespaces from ordinary users (sysctl user.max_user_namespaces, \
                      kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): use sudo";
        io::Error::new(error.kind(), format!("{error}; {remedy}"))
    };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).map_err(denied)?;
    // Only who can't leave groups may map one without being root.
    fs::write("/proc/self/setgroups", "deny").map_err(denied)?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(denied)?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(denied)
}
