//! `PUT /vsock`: the virtio vsock device, mapped to unix sockets of the host.

use serde::{Deserialize, Serialize};

/// Lowest context id of a guest; the ones below are the hypervisor's, the loopback's and the host's.
pub const GUEST_CID_MIN: u32 = 3;

/// Body of `PUT /vsock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// Without meaning, and deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
    /// Context id of the guest.
    pub guest_cid: u32,
    /// The unix socket for connections to the guest, made by the vmm; or `fd:NAME`, a listening one that it inherited.
    /// A connection of the guest to port P of the host goes to the socket with `_P` appended to the path, or to the
    /// connected descriptor `NAME_P`.
    pub uds_path: String,
}

impl Vsock {
    /// Checks what can be told without opening anything.
    pub fn validate(&self) -> Result<(), VsockError> {
        if self.guest_cid < GUEST_CID_MIN || self.guest_cid == u32::MAX {
            return Err(VsockError::GuestCid(self.guest_cid));
        }
        if self.uds_path.is_empty() {
            return Err(VsockError::EmptyPath);
        }
        Ok(())
    }
}

/// Why a vsock device is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VsockError {
    /// A reserved context id.
    #[error("guest_cid {0} is reserved; use {GUEST_CID_MIN} to 4294967294")]
    GuestCid(u32),
    /// No path.
    #[error("uds_path is empty; name a unix socket to be made, or fd:NAME")]
    EmptyPath,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_context_ids() {
        for (guest_cid, valid) in [(0, false), (2, false), (3, true), (u32::MAX - 1, true), (u32::MAX, false)] {
            let vsock = Vsock { vsock_id: None, guest_cid, uds_path: "v".to_owned() };
            assert_eq!(vsock.validate().is_ok(), valid, "{guest_cid}");
        }
    }
}
