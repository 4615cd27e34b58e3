//! From method, path and body to a typed request. No I/O.

use serde::de::DeserializeOwned;
use stockade_vmm_api::action::{ActionBody, ActionType, RequestedState, VmPatch};
use stockade_vmm_api::drive::Drive;
use stockade_vmm_api::id::{ResourceId, ResourceIdError};
use stockade_vmm_api::machine_config::{MachineConfig, MachineConfigPatch};
use stockade_vmm_api::snapshot::SnapshotLoad;
use stockade_vmm_api::vsock::Vsock;

use crate::http::{Method, Request};
use crate::request::ApiRequest;

/// A request, and what is to be said about it whatever becomes of it.
#[derive(Debug, PartialEq)]
pub struct Routed {
    /// The request.
    pub request: ApiRequest,
    /// The deprecated field that it used, as a line for the log.
    pub deprecated: Option<&'static str>,
}

/// Why no request of the API comes of an HTTP request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A body where none belongs.
    #[error("{0} request cannot have a body; send it without")]
    UnexpectedBody(&'static str),
    /// No body, or an object that changes nothing.
    #[error("Empty {0} request; send a JSON object that says what to set")]
    Empty(&'static str),
    /// Nothing is there.
    #[error("Invalid request method and/or path: {method} {path}; see the API's list of routes")]
    Unknown {
        /// Name of the method.
        method: &'static str,
        /// The path, as it was sent.
        path: String,
    },
    /// A route of Firecracker that this vmm doesn't have.
    #[error("{method} {path}: {what} not available in this version of Stockade")]
    Unavailable {
        /// Name of the method.
        method: &'static str,
        /// The path, as it was sent.
        path: String,
        /// What is not available, with its verb.
        what: &'static str,
    },
    /// Neither create nor load.
    #[error("Missing snapshot operation type.")]
    NoOperation,
    /// A name that can't be one.
    #[error(transparent)]
    Id(#[from] ResourceIdError),
    /// Two names.
    #[error("The id from the path ({path:?}) does not match the id from the body ({body:?}); send the same in both")]
    IdMismatch {
        /// The name in the path.
        path: String,
        /// The name in the body.
        body: String,
    },
    /// Not the JSON that the route takes. Clients match the beginning of this text.
    #[error("An error occurred when deserializing the json body of a request: {0}.")]
    Json(#[from] serde_json::Error),
}

/// Finds the typed request in an HTTP request.
///
/// # Errors
/// If there is none; the text is for the client.
pub fn route(request: &Request) -> Result<Routed, RouteError> {
    let mut segments = request.path.trim_start_matches('/').split_terminator('/');
    let resource = segments.next().unwrap_or("");
    let part = segments.next();
    let body = request.body.as_slice();
    let method = request.method.name();
    match (request.method, body.is_empty()) {
        (Method::Get | Method::Delete, false) => return Err(RouteError::UnexpectedBody(method)),
        (Method::Put, true) => return Err(RouteError::Empty(method)),
        // The one route with an optional body is not available, and to be told so.
        (Method::Patch, true) if resource != "balloon" => return Err(RouteError::Empty(method)),
        _ => {}
    }
    let plain = |request| Ok(Routed { request, deprecated: None });
    match (request.method, resource, part) {
        (Method::Get, "", _) => plain(ApiRequest::GetInstance),
        (Method::Get, "version", _) => plain(ApiRequest::GetVersion),
        (Method::Get, "vm", Some("config")) => plain(ApiRequest::GetVmConfig),
        (Method::Get, "machine-config", _) => plain(ApiRequest::GetMachineConfig),
        (Method::Put, "actions", _) => plain(action(body)?),
        (Method::Put, "boot-source", _) => plain(ApiRequest::PutBootSource(json(body)?)),
        (Method::Put, "cpu-config", _) => plain(ApiRequest::PutCpuConfig(json(body)?)),
        (Method::Put, "drives", part) => plain(ApiRequest::PutDrive(drive(body, part.unwrap_or(""))?)),
        (Method::Put, "entropy", _) => plain(ApiRequest::PutEntropy(json(body)?)),
        (Method::Put, "logger", _) => plain(ApiRequest::PutLogger(json(body)?)),
        (Method::Put, "machine-config", _) => put_machine_config(body),
        (Method::Patch, "machine-config", _) => patch_machine_config(body),
        (Method::Put, "serial", _) => plain(ApiRequest::PutSerial(json(body)?)),
        (Method::Put, "snapshot", Some("create")) => plain(ApiRequest::CreateSnapshot(json(body)?)),
        (Method::Put, "snapshot", Some("load")) => load_snapshot(body),
        (Method::Put, "snapshot", None) => Err(RouteError::NoOperation),
        (Method::Patch, "vm", _) => plain(state(body)?),
        (Method::Put, "vsock", _) => put_vsock(body),
        (_, resource, part) => Err(match unavailable(request.method, resource, part) {
            Some(what) => RouteError::Unavailable { method, path: request.path.clone(), what },
            None => RouteError::Unknown { method, path: request.path.clone() },
        }),
    }
}

/// What a route of Firecracker stands for that this vmm doesn't have.
fn unavailable(method: Method, resource: &str, part: Option<&str>) -> Option<&'static str> {
    use Method::{Delete, Get, Patch, Put};
    match (method, resource, part) {
        (Get | Put | Patch, "balloon", _) => Some("the balloon device is"),
        (Patch, "drives", _) => Some("changing a drive after it was configured is"),
        (Delete, "drives" | "pmem" | "network-interfaces", _) => Some("unplugging devices is"),
        (Get | Put | Patch, "hotplug", Some("memory")) => Some("memory hotplug is"),
        (Put, "metrics", _) => Some("the metrics file is"),
        (Get | Put | Patch, "mmds", _) => Some("the metadata service is"),
        (Put | Patch, "network-interfaces", _) => Some("networking is"),
        (Put | Patch, "pmem", _) => Some("the pmem device is"),
        _ => None,
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, RouteError> {
    Ok(serde_json::from_slice(body)?)
}

fn action(body: &[u8]) -> Result<ApiRequest, RouteError> {
    let ActionBody { action_type } = json(body)?;
    Ok(match action_type {
        ActionType::FlushMetrics => ApiRequest::FlushMetrics,
        ActionType::InstanceStart => ApiRequest::Start,
        ActionType::SendCtrlAltDel => ApiRequest::SendCtrlAltDel,
    })
}

fn state(body: &[u8]) -> Result<ApiRequest, RouteError> {
    let VmPatch { state } = json(body)?;
    Ok(match state {
        RequestedState::Paused => ApiRequest::Pause,
        RequestedState::Resumed => ApiRequest::Resume,
    })
}

fn drive(body: &[u8], id: &str) -> Result<Drive, RouteError> {
    ResourceId::check(id)?;
    let drive: Drive = json(body)?;
    if drive.drive_id != id {
        return Err(RouteError::IdMismatch { path: id.to_owned(), body: drive.drive_id });
    }
    Ok(drive)
}

fn put_machine_config(body: &[u8]) -> Result<Routed, RouteError> {
    let config: MachineConfig = json(body)?;
    let deprecated = config.cpu_template.map(|_| "PUT /machine-config: cpu_template field is deprecated.");
    Ok(Routed { request: ApiRequest::PutMachineConfig(config), deprecated })
}

fn patch_machine_config(body: &[u8]) -> Result<Routed, RouteError> {
    let patch: MachineConfigPatch = json(body)?;
    if patch.is_empty() {
        return Err(RouteError::Empty("PATCH"));
    }
    let deprecated = patch.cpu_template.map(|_| "PATCH /machine-config: cpu_template field is deprecated.");
    Ok(Routed { request: ApiRequest::PatchMachineConfig(patch), deprecated })
}

fn load_snapshot(body: &[u8]) -> Result<Routed, RouteError> {
    let load: SnapshotLoad = json(body)?;
    let deprecated = load
        .is_deprecated()
        .then_some("PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated.");
    Ok(Routed { request: ApiRequest::LoadSnapshot(load), deprecated })
}

fn put_vsock(body: &[u8]) -> Result<Routed, RouteError> {
    let vsock: Vsock = json(body)?;
    let deprecated = vsock.vsock_id.as_ref().map(|_| "PUT /vsock: vsock_id field is deprecated.");
    Ok(Routed { request: ApiRequest::PutVsock(vsock), deprecated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: Method, path: &str, body: &str) -> Result<Routed, String> {
        let request = Request { method, path: path.to_owned(), body: body.as_bytes().to_vec() };
        route(&request).map_err(|error| error.to_string())
    }

    fn found(method: Method, path: &str, body: &str) -> ApiRequest {
        routed(method, path, body).unwrap().request
    }

    fn refused(method: Method, path: &str, body: &str) -> String {
        routed(method, path, body).unwrap_err()
    }

    #[test]
    fn paths_are_forgiving_about_slashes() {
        for path in ["/vm/config", "//vm/config", "/vm/config/", "/vm/config/x"] {
            assert_eq!(found(Method::Get, path, ""), ApiRequest::GetVmConfig);
        }
        assert_eq!(found(Method::Get, "", ""), ApiRequest::GetInstance);
        assert_eq!(found(Method::Get, "/", ""), ApiRequest::GetInstance);
        assert!(refused(Method::Get, "/vm//config", "").starts_with("Invalid request method and/or path: GET"));
        assert!(refused(Method::Get, "/version?x", "").starts_with("Invalid request method and/or path: GET"));
    }

    #[test]
    fn every_action_and_state_has_its_request() {
        let action = |name: &str| found(Method::Put, "/actions", &format!(r#"{{"action_type":"{name}"}}"#));
        assert_eq!(action("InstanceStart"), ApiRequest::Start);
        assert_eq!(action("SendCtrlAltDel"), ApiRequest::SendCtrlAltDel);
        assert_eq!(action("FlushMetrics"), ApiRequest::FlushMetrics);
        assert_eq!(found(Method::Patch, "/vm", r#"{"state":"Paused"}"#), ApiRequest::Pause);
        assert_eq!(found(Method::Patch, "/vm", r#"{"state":"Resumed"}"#), ApiRequest::Resume);
    }

    #[test]
    fn bodies_belong_to_put_and_patch() {
        assert!(refused(Method::Get, "/", "x").starts_with("GET request cannot have a body"));
        assert!(refused(Method::Delete, "/drives/a", "x").starts_with("DELETE request cannot have a body"));
        assert!(refused(Method::Put, "/no-such", "").starts_with("Empty PUT request"));
        assert!(refused(Method::Patch, "/vm", "").starts_with("Empty PATCH request"));
        assert!(refused(Method::Patch, "/machine-config", "{}").starts_with("Empty PATCH request"));
    }

    #[test]
    fn json_errors_keep_their_prefix_and_position() {
        assert_eq!(
            refused(Method::Put, "/machine-config", r#"{"mem_size_mib": 128}"#),
            "An error occurred when deserializing the json body of a request: missing field `vcpu_count` at line 1 \
             column 21."
        );
        assert!(refused(Method::Put, "/entropy", r#"{"x":1}"#).contains("unknown field `x`, expected `rate_limiter`"));
    }

    #[test]
    fn drive_ids_are_checked_before_the_body() {
        assert!(refused(Method::Put, "/drives", "{}").contains("cannot be empty"));
        assert!(refused(Method::Put, "/drives/a-b", "{}").contains("'-'"));
        let body = r#"{"drive_id":"b","is_root_device":false}"#;
        assert!(refused(Method::Put, "/drives/a", body).contains("does not match"));
        assert!(matches!(found(Method::Put, "/drives/b", body), ApiRequest::PutDrive(_)));
    }

    #[test]
    fn deprecated_fields_are_noticed() {
        let config = r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#;
        assert!(routed(Method::Put, "/machine-config", config).unwrap().deprecated.is_some());
        assert!(routed(Method::Patch, "/machine-config", r#"{"cpu_template":"T2"}"#).unwrap().deprecated.is_some());
        let vsock = |more: &str| routed(Method::Put, "/vsock", &format!(r#"{{"guest_cid":3,"uds_path":"v"{more}}}"#));
        assert!(vsock(r#","vsock_id":"1""#).unwrap().deprecated.is_some());
        assert!(vsock("").unwrap().deprecated.is_none());
    }

    #[test]
    fn what_firecracker_has_and_we_do_not_is_named() {
        for (method, path) in [
            (Method::Get, "/balloon"),
            (Method::Put, "/metrics"),
            (Method::Put, "/mmds/config"),
            (Method::Put, "/network-interfaces/1"),
            (Method::Patch, "/balloon/hinting/stop"),
            (Method::Patch, "/drives/a"),
            (Method::Put, "/pmem/a"),
            (Method::Delete, "/drives/a"),
            (Method::Get, "/hotplug/memory"),
        ] {
            let body = if matches!(method, Method::Put | Method::Patch) && !path.ends_with("stop") { "{}" } else { "" };
            let message = refused(method, path, body);
            assert!(message.starts_with(&format!("{} {path}: ", method.name())), "{message}");
            assert!(message.ends_with("not available in this version of Stockade"), "{message}");
        }
    }
}
