//! The socket device: stream connections between the guest and unix sockets of the host (virtio 1.2, section 5.10).
//!
//! ```text
//!   guest driver                                            host
//!   tx queue --TxPacket--> Muxer --> Connection --send----> one socket for each connection
//!   rx queue <--RxBuffer--   |  <--- Connection <--recv--   (or a backlog of 64 KiB, while the host does not read)
//!   event queue (unused)     '------ Handshake <--accept--- listener: "CONNECT <port>\n"
//! ```
//!
//! Where connections lead to on the host is [`HostEndpoint`]: unix sockets by path, as Firecracker has them, or
//! descriptors that were opened by somebody else. All work is done on the event loop; payload goes straight between guest
//! memory and a socket.
//!
//! **Threat**: the guest writes every header, length, port and counter, in any order and at full speed, and host programs
//! may stall or vanish at any time. Hence
//! - headers are copied once and checked; what breaks the protocol ends its connection with RST, what breaks the queues
//!   ends the device's work (DEVICE_NEEDS_RESET); both are counted
//! - work for one event is bounded: [`device`](self)'s budget of 256 chains for each queue, the rest waits for its turn
//!   behind the other descriptors of the event loop. Connections take turns, one packet each
//! - memory is bounded: 1023 sockets, each with at most 64 KiB of payload that its host end has not taken, so 64 MiB in
//!   the worst case, and about 0.6 KiB each without; nothing is queued for the guest but at most 1279 RSTs
//! - a host end that does not read stops its own connection only: the guest runs out of credit for it
//!
//! **Syscalls** after construction, by descriptors: `recvfrom` and `sendto` (null address, flags
//! `MSG_DONTWAIT | MSG_NOSIGNAL`, and `MSG_PEEK`), `accept4` (null address or not, flag `SOCK_CLOEXEC`), `shutdown`,
//! `close`, `epoll_ctl`, `timerfd_settime`, `read` and `write` of eventfds. By path also `socket` (`AF_UNIX`,
//! `SOCK_STREAM`) and `connect`. At construction: `eventfd2`, `timerfd_create`; by path also `socket`, `bind`, `listen`,
//! `statx` or `newfstatat`; at drop, by path, `unlink` and the `stat` again. SIGPIPE cannot be raised, whatever the
//! process does about it, as every send has `MSG_NOSIGNAL`.

mod backlog;
mod connection;
mod counters;
mod credit;
mod device;
mod handshake;
mod host;
mod muxer;
mod packet;
mod peer;
#[allow(unsafe_code)]
mod sys;
#[cfg(test)]
mod tests;
mod watch;

pub use self::counters::VsockCounters;
pub use self::device::{Vsock, VsockError};
pub use self::host::{HostEndpoint, HostError};
