//! The socket for the kernel's messages about interfaces: rtnetlink(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send, socket_with};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Changes of interfaces are told without being asked for (`RTMGRP_LINK`).
const LINK_GROUP: u32 = 1;
/// The kernel's packets are no longer than this: a page, or 32 KiB for parts of a dump.
const PACKET_BYTES: usize = 64 * 1024;

/// Opens the socket, in the network namespace of the caller, whatever that unshares later.
///
/// # Errors
/// As socket(2) and bind(2).
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is NETLINK_ROUTE, number 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
    Ok(socket)
}

/// The socket, within a runtime.
#[derive(Debug)]
pub(super) struct Routes {
    /// Of another family, for which tokio has no type of its own; only readiness is asked of this one.
    socket: UnixDatagram,
}

/// What was received.
#[derive(Debug)]
pub(super) enum Received {
    /// A packet of the kernel's.
    Packet(Vec<u8>),
    /// Packets were lost, because there were too many.
    Lost,
}

impl Routes {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// Asks for every interface.
    pub(super) fn ask_for_all(&self) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(link));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_fd(), &bytes, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next packet. Dropping the future loses nothing.
    pub(super) async fn receive(&self) -> io::Result<Received> {
        self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd())).await
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut packet = vec![0; PACKET_BYTES];
    let (length, whole, sender) = match recvfrom(socket, &mut packet, RecvFlags::TRUNC) {
        Err(rustix::io::Errno::NOBUFS) => return Ok(Received::Lost),
        received => received?,
    };
    let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
    // The kernel's number is 0. Other processes of root's could send, too.
    if sender.is_none_or(|sender| sender.pid() != 0) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    if whole > length {
        return Ok(Received::Lost);
    }
    packet.truncate(length);
    Ok(Received::Packet(packet))
}
