//! Virtual machines as clients see them.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::whole;

/// Number of a virtual machine: the same for the same name and owner for as long as the host's state is kept, from 1 up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct VmId(pub u32);

impl fmt::Display for VmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where a virtual machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Known, and disabled in vm.conf: started on request only.
    Defined,
    /// Will be started when its turn comes.
    Waiting,
    /// Its jail and its machine are being made.
    Starting,
    /// The guest runs.
    Running,
    /// The guest's processors stand still.
    Paused,
    /// The guest was asked to stop, or is being ended.
    Stopping,
    /// It does not run.
    Stopped,
}

impl VmState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Defined, Self::Waiting, Self::Starting, Self::Running, Self::Paused, Self::Stopping, Self::Stopped];

    /// Whether there is, or may be, a process of it.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused | Self::Stopping)
    }

    /// The word for it, as in the output of `stockade status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defined => "defined",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// Whose a virtual machine is. Who is neither this user nor in this group may not touch it, root aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The user.
    #[serde(deserialize_with = "whole::number")]
    #[cfg_attr(feature = "schema", schema(maximum = 4294967295_u32))]
    pub uid: u32,
    /// The group whose members have the owner's rights as well, if there is one.
    #[serde(default, deserialize_with = "whole::optional")]
    #[cfg_attr(feature = "schema", schema(maximum = 4294967295_u32))]
    pub gid: Option<u32>,
}

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Exit {
    /// Why, for programs.
    pub cause: ExitCause,
    /// Why, for people.
    pub message: String,
    /// When: milliseconds since 1970.
    pub at_ms: u64,
}

/// Why a virtual machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The guest reset itself, and was not to be started again.
    Reset,
    /// The guest powered itself off, or did what it was asked for when it was to stop.
    PowerOff,
    /// The guest halted for good.
    Halted,
    /// The guest crashed: a triple fault, a panic of its kernel, or something that its processor or KVM can't do.
    Crashed,
    /// It was ended on request, without asking the guest.
    Killed,
    /// Its vmm was killed because it broke its filter, as one in the hands of its guest would; the message says which thread made
    /// which system call.
    Violated,
    /// Its vmm failed or was killed by something else.
    Failed,
    /// Nobody knows: its vmm and its warden were gone when the daemon came back.
    Unknown,
}

/// What there is to know about a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmSummary {
    /// Its number.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: VmState,
    /// How often it was started, guest reboots included.
    pub generation: u64,
    /// Whose it is.
    pub owner: Owner,
    /// The user who started it, while it runs.
    pub run_by: Option<u32>,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory of the guest, MiB.
    pub memory_mib: u64,
    /// Disks.
    pub disks: u32,
    /// Network interfaces.
    pub interfaces: Vec<InterfaceSummary>,
    /// Whether vm.conf defines it; if not, it is gone once it has stopped.
    pub configured: bool,
    /// Process id of its vmm, while there is one.
    pub pid: Option<i32>,
    /// Name of its jail: of its folder under `/run/stockade/vms` and its control groups, while there is one.
    pub jail: Option<String>,
    /// When the guest was started the last time: milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// How it ended the last time.
    pub last_exit: Option<Exit>,
    /// Why it could not be started the last time.
    pub last_error: Option<String>,
}

/// A network interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InterfaceSummary {
    /// Its Ethernet address, six hexadecimal numbers with `:` between them.
    pub lladdr: String,
    /// The switch that it is connected to.
    pub switch: Option<String>,
}

/// How a client names a virtual machine: by its number if it is all digits, else by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VmReference {
    /// By its number.
    Id(VmId),
    /// By its name.
    Name(String),
}

impl FromStr for VmReference {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), |number| Self::Id(VmId(number))))
    }
}

impl fmt::Display for VmReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(formatter),
            Self::Name(name) => name.fmt(formatter),
        }
    }
}
