//! The network, and whoever listens there.

use std::ffi::CStr;

use nix::errno::Errno;
use stockade_prisoner::{Targets, descriptor::STREAM};

use crate::attempt::{Attempt, Tried, connect, containing, futile, open, permitted, read_file, target, unix, won};
use crate::sys::call;

const REACHES: &str = "services of the host trust whoever is there";
const TAKEN: &str = "the answer is that the port is taken, so this is the host's network";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "connect-by-tcp",
        tries: "connects to a TCP port of 127.0.0.1",
        wins: "it is connected",
        why: REACHES,
        run: |targets| {
            let socket = call!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)?;
            permitted(call!(SYS_connect, socket, &localhost(targets.tcp_port), 16), &[])
        },
    },
    Attempt {
        name: "send-by-udp",
        tries: "sends a datagram to a UDP port of 127.0.0.1",
        wins: "it is sent",
        why: REACHES,
        run: |targets| {
            let socket = call!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            permitted(call!(SYS_sendto, socket, b"hostile", 7, 0, &localhost(targets.udp_port), 16), &[])
        },
    },
    Attempt {
        name: "listen-by-tcp",
        tries: "takes a TCP port at which somebody on the host listens",
        wins: TAKEN,
        why: "who listens in the place of another is that other",
        run: |targets| bind(libc::AF_INET, libc::SOCK_STREAM, &localhost(targets.tcp_port)),
    },
    Attempt {
        name: "listen-by-udp",
        tries: "takes a UDP port at which somebody on the host listens",
        wins: TAKEN,
        why: "who listens in the place of another is that other",
        run: |targets| bind(libc::AF_INET, libc::SOCK_DGRAM, &localhost(targets.udp_port)),
    },
    Attempt {
        name: "connect-by-path",
        tries: "connects to a unix socket by its path",
        wins: "it is connected",
        why: "the host's services listen at such",
        run: |targets| connect_to_path(&target(targets, "socket"), libc::SOCK_STREAM),
    },
    Attempt {
        name: "send-by-path",
        tries: "sends a datagram to a unix socket by its path",
        wins: "it is sent",
        why: "the host's log listens at such a socket",
        run: |targets| {
            let socket = call!(SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
            let (address, length) = unix(target(targets, "datagram").to_bytes());
            permitted(call!(SYS_sendto, socket, b"hostile", 7, 0, &address, length), &[])
        },
    },
    Attempt {
        name: "connect-by-abstract-name",
        tries: "connects to an abstract unix socket",
        wins: "it is connected",
        why: "containers' shims and desktops have listened at such, open to everybody",
        run: |targets| {
            let socket = call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
            let (address, length) = abstract_address(targets);
            permitted(call!(SYS_connect, socket, &address, length), &[])
        },
    },
    Attempt {
        name: "listen-at-abstract-name",
        tries: "takes the name of an abstract unix socket",
        wins: "the answer is that it is taken, so this is the host's network",
        why: "who listens in the place of another is that other",
        run: |targets| {
            let (address, length) = abstract_address(targets);
            bind(libc::AF_UNIX, libc::SOCK_STREAM, address.get(..length).unwrap_or_default())
        },
    },
    Attempt {
        name: "listen-at-path",
        tries: "listens at a unix socket in a folder of the host",
        wins: "it is there",
        why: "another machine could connect to it",
        run: |targets| {
            let socket = call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
            let (address, length) = unix(target(targets, "open/listener").to_bytes());
            permitted(call!(SYS_bind, socket, &address, length), &[])
        },
    },
    Attempt {
        name: "reconnect-socket",
        tries: "connects the handed over socket to another one",
        wins: "it is connected",
        why: "it takes no new socket",
        run: |targets| {
            let (address, length) = unix(target(targets, "socket").to_bytes());
            permitted(call!(SYS_connect, STREAM, &address, length), &[])
        },
    },
    Attempt {
        name: "list-addresses",
        tries: "asks for the addresses of all interfaces",
        wins: "there is one",
        why: "where the host is, and what else is there",
        run: |_| {
            let socket = call!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            // struct ifconf: no buffer, so that only the length is told.
            let mut request = [0_u64; 2];
            call!(SYS_ioctl, socket, libc::SIOCGIFCONF, &mut request)?;
            if request == [0; 2] { futile("there is none") } else { won("the host's interfaces are told") }
        },
    },
    Attempt {
        name: "listen-to-everything",
        tries: "opens a socket that gets every packet",
        wins: "it is open",
        why: "others' packets are not for it",
        run: |_| permitted(call!(SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0), &[]),
    },
    Attempt {
        name: "send-raw-packets",
        tries: "opens a socket for packets that it writes itself",
        wins: "it is open",
        why: "it could say that it is somebody else",
        run: |_| permitted(call!(SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP), &[]),
    },
    Attempt {
        name: "switch-interface",
        tries: "switches the loopback interface to what it is",
        wins: "the kernel does it",
        why: "the next thing would be to switch the host's network off",
        run: |_| {
            let socket = call!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            // struct ifreq: the name, then the flags.
            let mut request = [0_u8; 40];
            request.iter_mut().zip(b"lo").for_each(|(there, byte)| *there = *byte);
            call!(SYS_ioctl, socket, libc::SIOCGIFFLAGS, &mut request)?;
            permitted(call!(SYS_ioctl, socket, libc::SIOCSIFFLAGS, &mut request), &[])
        },
    },
    Attempt {
        name: "make-interface",
        tries: "opens /dev/net/tun",
        wins: "it is open",
        why: "an interface of its own is a way into the host's network",
        run: |_| {
            open(c"/dev/net/tun", libc::O_RDWR)?;
            won("interfaces can be made")
        },
    },
    Attempt {
        name: "use-interface",
        tries: "makes an interface by /dev/net/tun",
        wins: "it is there",
        why: "an interface of its own is a way into the host's network",
        run: |_| {
            let device = open(c"/dev/net/tun", libc::O_RDWR)?;
            // struct ifreq: any name, IFF_TAP and IFF_NO_PI. It goes with the descriptor.
            let mut request = [0_u8; 40];
            request[16] = 0x02;
            request[17] = 0x10;
            permitted(call!(SYS_ioctl, device, libc::TUNSETIFF, &mut request), &[])
        },
    },
    Attempt {
        name: "mark-packets",
        tries: "marks the packets of a socket",
        wins: "they are marked",
        why: "firewalls and routes go by marks",
        run: |_| {
            let socket = call!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            permitted(call!(SYS_setsockopt, socket, libc::SOL_SOCKET, libc::SO_MARK, &[1_u32], 4), &[])
        },
    },
    Attempt {
        name: "list-connections",
        tries: "reads the list of TCP connections",
        wins: "the host's are told",
        why: "whom the host talks to is nobody's business",
        run: |targets| containing(&read_file(c"/proc/net/tcp")?, &format!(":{:04X}", targets.tcp_port)),
    },
    Attempt {
        name: "hear-of-devices",
        tries: "listens to what the kernel says about devices",
        wins: "it listens in the host's network",
        why: "what comes and goes on the host is nobody's business",
        run: |_| {
            let socket = call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)?;
            // struct sockaddr_nl: family, no id, the first group.
            let address = [u32::from(libc::AF_NETLINK as u16), 0, 1];
            call!(SYS_bind, socket, &address, 12)?;
            let mut flags = [0_u8; 40];
            flags.iter_mut().zip(b"lo").for_each(|(there, byte)| *there = *byte);
            let inet = call!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            call!(SYS_ioctl, inet, libc::SIOCGIFFLAGS, &mut flags)?;
            // A loopback interface that is down is that of an empty network.
            if flags[16] & 1 == 1 { won("the host's devices are told") } else { futile("an empty network") }
        },
    },
];

/// Connects to a unix socket.
pub fn connect_to_path(path: &CStr, kind: i32) -> Tried {
    let socket = call!(SYS_socket, libc::AF_UNIX, kind, 0)?;
    permitted(connect(socket, path.to_bytes()), &[])
}

/// Binds a socket to an address that is taken on the host.
fn bind(family: i32, kind: i32, address: &[u8]) -> Tried {
    let socket = call!(SYS_socket, family, kind, 0)?;
    match call!(SYS_bind, socket, address, address.len()) {
        Err(Errno::EADDRINUSE) => won("it is taken: this is the host's network"),
        Ok(_) => futile("it is free here: this is another network"),
        Err(errno) => Err(errno.into()),
    }
}

/// struct sockaddr_in of a port of 127.0.0.1.
fn localhost(port: u16) -> [u8; 16] {
    let [high, low] = port.to_be_bytes();
    [libc::AF_INET as u8, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn abstract_address(targets: &Targets) -> ([u8; 110], usize) {
    let name: Vec<u8> = std::iter::once(0).chain(targets.abstract_name.bytes()).collect();
    let (address, length) = unix(&name);
    // Without the null character that a path ends in.
    (address, length - 1)
}
