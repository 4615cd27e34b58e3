//! The role `control`: parses what clients write, and nothing else.
//!
//! Who I am: `stockaded` again, executed by the parent as root, and at once confined: another user, an empty root, no
//! network, no capability, no path, and the system calls that serving sockets takes. What I hold: the channel to the
//! parent, and the sockets of clients that it hands me, with what they are attached to. I ask the parent for what clients want; who
//! they are, it knows better than I. [`parent`] is its side of this.

mod agent;
mod consoles;
mod link;
pub mod parent;
mod peers;

use std::path::Path;

use crate::roles::channel::Channel;
use crate::roles::frame::{ToControl, ToParent};
use crate::roles::{Role, confine};

/// This role.
pub static ROLE: Role = Role { name: "control", filter: seccomp_filters::Role::Control, descriptors: 4096, run };

/// Serves clients until the parent is gone.
fn run(empty: &Path) -> Result<(), String> {
    let channel = confine::inherited_channel()?;
    confine::enter(&ROLE, empty)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
    runtime.block_on(async {
        let channel: Channel<ToParent, ToControl> = Channel::new(channel).map_err(|error| error.to_string())?;
        confine::pledge(&ROLE)?;
        tokio::task::LocalSet::new().run_until(link::serve(channel)).await
    })
}
