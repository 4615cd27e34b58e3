//! What there is to know about a switch: what vm.conf says, and what the host has.

use serde::{Deserialize, Serialize};

/// A switch of vm.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SwitchSummary {
    /// The name that virtual machines use for it.
    pub name: String,
    /// The interface of the host that it is meant to be.
    pub interface: String,
    /// Whether vm.conf has it in use.
    pub enabled: bool,
    /// That interface at the moment; nothing if the host has none of this name.
    pub link: Option<Link>,
}

/// An interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Link {
    /// Whether it is a bridge, as a switch has to be.
    pub bridge: bool,
    /// Whether it is up (`IFF_UP`, netdevice(7)).
    pub up: bool,
    /// Most bytes of a packet on it.
    pub mtu: u32,
}
