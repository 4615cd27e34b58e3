//! Machines of a daemon before this one that no record knows of are ended; what they leave is swept with every other jail
//! that nobody has.

use std::path::Path;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};
use stockade_jailer::warden::Command;
use stockade_supervisor::machine::detached::WARDEN_SOCKET;
use stockade_supervisor::machine::state::State;

/// Ends every detached machine whose jail is not among `known`.
pub fn end_unknown(jails: &State, known: &[String]) {
    for entry in std::fs::read_dir(jails.machines()).into_iter().flatten().flatten() {
        let is_known = entry.file_name().to_str().is_some_and(|name| known.iter().any(|jail| jail == name));
        let socket = entry.path().join(WARDEN_SOCKET);
        if !is_known && socket.exists() {
            log::warn!("{}: nobody knows this virtual machine; it is ended", entry.path().display());
            kill(&socket);
        }
    }
}

fn kill(warden: &Path) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sent = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).and_then(|socket| {
        connect(&socket, &SocketAddrUnix::new(warden)?)?;
        send(&socket, &serde_json::to_vec(&Command::Kill).unwrap_or_default(), SendFlags::NOSIGNAL)
    });
    if let Err(error) = sent {
        log::debug!("{}: {error}", warden.display());
    }
}
