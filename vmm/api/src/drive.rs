//! `PUT /drives/{id}`: a block device.

use serde::{Deserialize, Serialize};

use crate::id::{ResourceId, ResourceIdError};
use crate::rate_limiter::RateLimiter;

/// Body of `PUT /drives/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// The same as in the path of the request.
    pub drive_id: String,
    /// Partition of the root file system, if the drive has partitions.
    pub partuuid: Option<String>,
    /// Whether the guest's root file system is on it. At most one drive; it is always `/dev/vda`.
    pub is_root_device: bool,
    /// What a flush of the guest does.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Whether the guest may only read; `false` if absent.
    pub is_read_only: Option<bool>,
    /// The raw image, a file or block device, or `fd:NAME`.
    pub path_on_host: Option<String>,
    /// Limits on the guest's use of it.
    pub rate_limiter: Option<RateLimiter>,
    /// How the vmm does its reads and writes.
    pub io_engine: Option<IoEngine>,
    /// Socket of a vhost-user backend.
    pub socket: Option<String>,
    /// Whether the guest may give back the space of what it doesn't need any more, if the drive is writable; `true` if
    /// absent. Firecracker has this from 1.17 on, where it is `false` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
}

impl Drive {
    /// Whether the guest may only read.
    pub fn read_only(&self) -> bool {
        self.is_read_only.unwrap_or(false)
    }

    /// Checks what can be told without opening anything, and returns the image's path.
    pub fn validate(&self) -> Result<&str, DriveError> {
        ResourceId::check(&self.drive_id).map_err(DriveError::Id)?;
        if self.socket.is_some() {
            return Err(DriveError::VhostUser);
        }
        if self.io_engine == Some(IoEngine::Async) {
            return Err(DriveError::AsyncEngine);
        }
        if let Some(partuuid) = self.partuuid.as_deref()
            && !partuuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        {
            return Err(DriveError::Partuuid(partuuid.to_owned()));
        }
        self.path_on_host.as_deref().ok_or(DriveError::NoPath)
    }
}

/// What a flush of the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Nothing: flush is not offered to the guest.
    #[default]
    Unsafe,
    /// Flush is offered, and data is on the host's medium before it is answered.
    Writeback,
}

/// How the vmm does its reads and writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// `io_uring`.
    Async,
    /// `preadv` and `pwritev`.
    #[default]
    Sync,
}

/// Why a drive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// Its name.
    #[error("drive_id: {0}")]
    Id(#[source] ResourceIdError),
    /// No image.
    #[error("path_on_host is missing; name a raw image, a block device, or fd:NAME")]
    NoPath,
    /// vhost-user.
    #[error("socket: vhost-user drives are not available; give path_on_host instead")]
    VhostUser,
    /// The asynchronous engine.
    #[error("io_engine Async is not available; use Sync, or leave it out")]
    AsyncEngine,
    /// Not a UUID.
    #[error("partuuid {0:?} is no partition UUID; use hexadecimal digits and '-'")]
    Partuuid(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(json: &str) -> Drive {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn defaults_are_those_of_firecracker() {
        let drive = drive(r#"{"drive_id":"a_1","is_root_device":false,"path_on_host":"x"}"#);
        assert_eq!(drive.validate(), Ok("x"));
        assert_eq!(drive.cache_type, CacheType::Unsafe);
        assert!(!drive.read_only());
        let error = serde_json::from_str::<Drive>(r#"{"drive_id":"a"}"#).unwrap_err();
        assert_eq!(error.to_string(), "missing field `is_root_device` at line 1 column 16");
    }

    #[test]
    fn what_is_not_available_is_refused_by_name() {
        let base = r#""drive_id":"a","is_root_device":true"#;
        let case = |more: &str| drive(&format!("{{{base}{more}}}")).validate().map(str::to_owned);
        assert_eq!(case(""), Err(DriveError::NoPath));
        assert_eq!(case(r#","socket":"s""#), Err(DriveError::VhostUser));
        assert_eq!(case(r#","path_on_host":"p","io_engine":"Async""#), Err(DriveError::AsyncEngine));
        assert_eq!(case(r#","path_on_host":"p","rate_limiter":{}"#), Ok("p".to_owned()));
        assert_eq!(
            case(r#","path_on_host":"p","partuuid":"0 init=/bin/sh""#),
            Err(DriveError::Partuuid("0 init=/bin/sh".to_owned()))
        );
    }
}
