//! Network interfaces of VMs, and the switches that they are plugged into.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::StartPolicy;

/// `switch`: a bridge of the host, under the name that VMs use for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Its name.
    pub name: String,
    /// Whether it is used; a disabled one is there for reading only.
    pub start: StartPolicy,
    /// The bridge: an interface of the host, which exists already.
    pub interface: String,
    /// Interface group that each interface in this switch joins.
    pub group: Option<String>,
    /// `locked lladdr`: for each interface in this switch.
    pub source_check: SourceCheck,
    /// Routing domain of the bridge, and of each interface in it that has none itself.
    pub rdomain: Option<Rdomain>,
    /// Whether the bridge is up.
    pub link: LinkState,
}

/// One network interface of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// `local`: the daemon gives host and guest an address, by DHCP.
    pub local: bool,
    /// Name of the tap on the host: `tap` and a number; without it, the daemon takes a free one.
    pub tap: Option<String>,
    /// Name of the switch that it is plugged into. It need not be defined (yet).
    pub switch: Option<String>,
    /// Interface group that the tap joins.
    pub group: Option<String>,
    /// The guest's address; without it, the daemon takes one that nobody has.
    pub lladdr: Option<MacAddress>,
    /// `locked lladdr`.
    pub source_check: SourceCheck,
    /// Routing domain of the tap.
    pub rdomain: Option<Rdomain>,
    /// Whether the tap is up.
    pub link: LinkState,
}

/// Whether a guest may send from, and receive for, other addresses than its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceCheck {
    /// It may.
    #[default]
    Off,
    /// Such frames are dropped.
    Locked,
}

/// State of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It carries frames.
    #[default]
    Up,
    /// It doesn't.
    Down,
}

/// A routing domain: on Linux a VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rdomain {
    /// The VRF of this routing table.
    Table(u8),
    /// The VRF that is called so.
    Name(String),
}

/// An Ethernet address of one station: neither zero nor a group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address of these bytes, if it is one station's.
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        let [first, ..] = bytes;
        (first & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// Its bytes, in the order in which they are sent.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    /// Six hexadecimal numbers of one or two digits with `:` between them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(InvalidMacAddress)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidMacAddress);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddress)?;
        }
        if parts.next().is_some() { Err(InvalidMacAddress) } else { Self::new(bytes).ok_or(InvalidMacAddress) }
    }
}

/// Not the address of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the Ethernet address of one station; use six hexadecimal numbers with ':' between them, the first one even"
)]
pub struct InvalidMacAddress;

impl TryFrom<String> for MacAddress {
    type Error = InvalidMacAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        let parse = |text: &str| text.parse::<MacAddress>().map(|address| address.to_string());
        assert_eq!(parse("FE:e1:bb:d1:0:1").as_deref(), Ok("fe:e1:bb:d1:00:01"));
        for bad in [
            "",
            "1:2:3:4:5",
            "2:2:3:4:5:6:7",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "2:2:3:4:5:+6",
            "002:2:3:4:5:6",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
