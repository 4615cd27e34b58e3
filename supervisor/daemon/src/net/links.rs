//! The interfaces of the host, as the kernel tells them: all of them once (a dump), and from then on what changes.
//!
//! Invariant: after the end of a dump, an interface is known exactly if the kernel has named it since that dump began, and has
//! not said that it is gone.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use stockade_api::Link;

/// The interfaces have changed while they were told (`NLM_F_DUMP_INTR`, linux/netlink.h).
const DUMP_INTERRUPTED: u16 = 0x10;
/// Messages begin at multiples of so many bytes (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// By their number, which stays when they are renamed.
    known: BTreeMap<u32, (String, Link)>,
    /// Those that were named since the dump began which is under way.
    named: Option<BTreeSet<u32>>,
}

/// What follows from a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing yet.
    More,
    /// The dump is complete.
    Complete,
    /// What was told is not whole: ask again.
    Again,
    /// The kernel refuses to tell, with this `errno`.
    Refused(i32),
}

impl Links {
    /// The interface with this name.
    pub(super) fn get(&self, name: &str) -> Option<Link> {
        self.known.values().find(|(known, _)| known == name).map(|(_, link)| *link)
    }

    /// A dump was asked for.
    pub(super) fn begin(&mut self) {
        self.named = Some(BTreeSet::new());
    }

    /// Takes note of a packet from the kernel: one message, or several.
    pub(super) fn note(&mut self, packet: &[u8]) -> Next {
        let mut rest = packet;
        let mut next = Next::More;
        while let Some((message, behind)) = first(rest) {
            rest = behind;
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
                log::debug!("a message about an interface is not understood");
                continue;
            };
            let interrupted = message.header.flags & DUMP_INTERRUPTED != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => self.appeared(&link),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => self.disappeared(&link),
                NetlinkPayload::Done(_) => next = self.finish(),
                NetlinkPayload::Overrun(_) => next = Next::Again,
                NetlinkPayload::Error(error) if error.code.is_some() => return Next::Refused(error.raw_code()),
                _ => {}
            }
            if interrupted {
                next = Next::Again;
            }
        }
        next
    }

    fn appeared(&mut self, message: &LinkMessage) {
        // Messages of other families are about a port of a bridge, and not about an interface.
        let Some((name, link)) = read(message) else { return };
        self.known.insert(message.header.index, (name, link));
        if let Some(named) = &mut self.named {
            named.insert(message.header.index);
        }
    }

    fn disappeared(&mut self, message: &LinkMessage) {
        if message.header.interface_family == AddressFamily::Unspec {
            self.known.remove(&message.header.index);
        }
    }

    fn finish(&mut self) -> Next {
        let Some(named) = self.named.take() else { return Next::More };
        self.known.retain(|index, _| named.contains(index));
        Next::Complete
    }
}

/// The first message of some bytes, and what is behind it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(NetlinkBuffer::new_checked(bytes).ok()?.length()).ok()?;
    let message = bytes.get(..length)?;
    Some((message, bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default()))
}

fn read(message: &LinkMessage) -> Option<(String, Link)> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut name = None;
    let mut link = Link { bridge: false, up: message.header.flags.contains(LinkFlags::Up), mtu: 0 };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => {}
        }
    }
    Some((name?, link))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use netlink_packet_core::{DoneMessage, NetlinkHeader};
    use proptest::prelude::*;

    use super::*;

    fn bytes(payload: NetlinkPayload<RouteNetlinkMessage>, flags: u16) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(ALIGNMENT)];
        let length = message.buffer_len();
        message.serialize(&mut bytes[..length]);
        bytes
    }

    fn message(index: u32, name: &str, kind: Option<InfoKind>, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(1500)];
        message.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        message
    }

    fn new(message: LinkMessage) -> Vec<u8> {
        bytes(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)), 0)
    }

    fn gone(message: LinkMessage) -> Vec<u8> {
        bytes(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)), 0)
    }

    fn done(flags: u16) -> Vec<u8> {
        bytes(NetlinkPayload::Done(DoneMessage::default()), flags)
    }

    fn bridge(index: u32, name: &str) -> LinkMessage {
        message(index, name, Some(InfoKind::Bridge), LinkFlags::Up)
    }

    #[test]
    fn what_the_kernel_tells_is_known_until_it_says_otherwise() {
        let mut links = Links::default();
        links.begin();
        let several = [new(bridge(2, "br0")), new(message(3, "eth0", None, LinkFlags::empty()))].concat();
        assert_eq!(links.note(&several), Next::More);
        assert_eq!(links.note(&done(0)), Next::Complete);
        assert_eq!(links.get("br0"), Some(Link { bridge: true, up: true, mtu: 1500 }));
        assert_eq!(links.get("eth0"), Some(Link { bridge: false, up: false, mtu: 1500 }));
        assert_eq!(links.get("br1"), None);
        // It is renamed, goes down, and is gone.
        links.note(&new(message(2, "br1", Some(InfoKind::Bridge), LinkFlags::empty())));
        assert_eq!((links.get("br0"), links.get("br1").map(|link| link.up)), (None, Some(false)));
        links.note(&gone(bridge(2, "br1")));
        assert_eq!(links.get("br1"), None);
    }

    #[test]
    fn a_port_that_leaves_a_bridge_is_still_an_interface() {
        let mut links = Links::default();
        links.note(&new(message(3, "eth0", None, LinkFlags::Up)));
        let mut port = message(3, "eth0", None, LinkFlags::Up);
        port.header.interface_family = AddressFamily::Bridge;
        links.note(&gone(port));
        assert!(links.get("eth0").is_some());
    }

    #[test]
    fn what_a_second_dump_does_not_name_is_gone_and_a_broken_one_is_asked_for_again() {
        let mut links = Links::default();
        links.note(&new(bridge(2, "br0")));
        links.begin();
        links.note(&new(bridge(4, "br4")));
        assert_eq!(links.note(&done(DUMP_INTERRUPTED)), Next::Again);
        links.begin();
        links.note(&new(bridge(4, "br4")));
        assert_eq!(links.note(&done(0)), Next::Complete);
        assert_eq!((links.get("br0"), links.get("br4").is_some()), (None, true));
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), bit in 0_u8..8) {
            let mut links = Links::default();
            links.note(&bytes);
            let mut bytes = new(bridge(2, "br0"));
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            links.note(&bytes);
        }
    }
}
