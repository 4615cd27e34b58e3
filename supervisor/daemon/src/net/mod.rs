//! The role `net`: knows which interfaces the host has, and nothing else.
//!
//! Who I am: `stockaded` again, executed by the parent as root. I open one socket for the kernel's messages about interfaces
//! (rtnetlink(7)), which stays in the host's network namespace, and am confined then as `control` is: another user, an empty
//! root, no capability, no network but what that socket tells. Telling takes no privilege, and changing anything would take
//! `CAP_NET_ADMIN`, of the one who sends, too; so I can't. The parent asks me about interfaces by name, and parses nothing
//! of what the kernel says. [`parent`] is its side of this.

pub mod frame;
mod links;
pub mod parent;
mod serve;
mod socket;

use std::path::Path;

use crate::roles::channel::Channel;
use crate::roles::{Role, confine};

/// This role.
pub static ROLE: Role = Role { name: "net", filter: seccomp_filters::Role::Net, descriptors: 64, run };

/// Serves the parent until it is gone.
fn run(empty: &Path) -> Result<(), String> {
    let channel = confine::inherited_channel()?;
    let routes = socket::open().map_err(|error| format!("open a socket for interfaces: {error}"))?;
    confine::enter(&ROLE, empty)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
    runtime.block_on(async {
        let channel = Channel::new(channel).map_err(|error| error.to_string())?;
        let routes = socket::Routes::new(routes).map_err(|error| error.to_string())?;
        confine::pledge(&ROLE)?;
        serve::serve(&channel, &routes).await
    })
}
