//! What concerns the daemon as a whole.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{MemorySize, Owner, Prefix};

/// Everything outside of switches, VMs and quotas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Globals {
    /// `local prefix`: addresses of local interfaces.
    pub local_prefix: Prefix<Ipv4Addr>,
    /// `local inet6`.
    pub local_inet6: LocalInet6,
    /// `socket owner`: who may open the control socket, besides root.
    pub socket_owner: Owner,
    /// `agentx`: the AgentX master that VMs are shown to.
    pub agentx: Option<AgentX>,
    /// `staggered start`; without it, the daemon starts as many VMs at a time as the host has processors, every 30 seconds.
    pub staggered_start: Option<StaggeredStart>,
    /// `status visible`: which VMs a tenant is shown.
    pub status_visible: StatusVisibility,
    /// `stop timeout`: seconds that a guest has to go down by itself, if its VM doesn't say otherwise.
    pub stop_timeout_seconds: u32,
    /// `shutdown`: what becomes of running VMs when the daemon is told to end.
    pub shutdown: Shutdown,
    /// `reserve memory`: memory of the host that no VM gets.
    pub reserved_memory: Option<MemorySize>,
}

impl Globals {
    /// `stop timeout` if nothing is said, seconds.
    pub const DEFAULT_STOP_TIMEOUT_SECONDS: u32 = 30;
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            local_prefix: Prefix { address: Ipv4Addr::new(100, 64, 0, 0), length: 10 },
            local_inet6: LocalInet6::Off,
            socket_owner: Owner { uid: 0, gid: None },
            agentx: None,
            staggered_start: None,
            status_visible: StatusVisibility::Permitted,
            stop_timeout_seconds: Self::DEFAULT_STOP_TIMEOUT_SECONDS,
            shutdown: Shutdown::Stop,
            reserved_memory: None,
        }
    }
}

/// Whether local interfaces have IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalInet6 {
    /// They have none.
    Off,
    /// From a prefix below fd00::/8 that the daemon makes up.
    Random,
    /// From this prefix.
    Prefix(Prefix<Ipv6Addr>),
}

/// The AgentX master, RFC 2741.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentX {
    /// The SNMP context, if it isn't the default one: at most [`AgentX::MAX_CONTEXT_BYTES`].
    pub context: Option<String>,
    /// The master's socket: absolute, at most [`AgentX::MAX_PATH_BYTES`].
    pub path: PathBuf,
}

impl AgentX {
    /// Where masters listen.
    pub const DEFAULT_PATH: &str = "/var/agentx/master";
    /// Most bytes of a context.
    pub const MAX_CONTEXT_BYTES: usize = 32;
    /// Most bytes of a path: what a socket's address holds, unix(7).
    pub const MAX_PATH_BYTES: usize = 107;
}

/// How many VMs start at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaggeredStart {
    /// How many at once: at most [`StaggeredStart::MAX_PARALLEL`].
    pub parallel: NonZeroU32,
    /// Seconds until the next ones: at most [`StaggeredStart::MAX_DELAY_SECONDS`].
    pub delay_seconds: u32,
}

impl StaggeredStart {
    /// Most VMs that start at once.
    pub const MAX_PARALLEL: u32 = 4096;
    /// The longest delay: a day.
    pub const MAX_DELAY_SECONDS: u32 = 86_400;
}

/// Which VMs a tenant is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusVisibility {
    /// Those that the tenant may do something with.
    Permitted,
    /// All, as in vmd.
    All,
}

/// What becomes of running VMs when the daemon is told to end (SIGTERM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// Guests are asked to go down, and killed after their stop timeout.
    Stop,
    /// They go on running; the next daemon finds them.
    Leave,
}
