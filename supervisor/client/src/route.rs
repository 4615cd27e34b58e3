//! Requests as HTTP has them: method, path and body.
//!
//! Names are the caller's text, so every byte of them that could mean something in a path is escaped (RFC 3986, 2.1).

use std::fmt::Write as _;

use hyper::Method;
use serde::Serialize;
use stockade_api::body::{Load, Log, Reset, Stop};
use stockade_api::request::{NewRun, NewVm, ResetScope, StopMode, Verbosity};
use stockade_api::{VERSION, VmId, VmReference};

use crate::console::{Following, Part, Typing};

/// A request, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    /// JSON, if there is a body.
    pub(crate) body: Option<Vec<u8>>,
    /// What the connection is to become.
    pub(crate) upgrade: Option<String>,
}

impl Route {
    pub(crate) fn version() -> Self {
        Self::get("version")
    }

    pub(crate) fn list(after: VmId) -> Self {
        Self::get(&format!("vms?after={after}"))
    }

    pub(crate) fn show(vm: &VmReference) -> Self {
        Self::get(&of(vm, ""))
    }

    pub(crate) fn start(vm: &VmReference) -> Self {
        Self::post(&of(vm, "/start"))
    }

    pub(crate) fn create(definition: &NewVm) -> serde_json::Result<Self> {
        Self::post("vms").with(definition)
    }

    pub(crate) fn stop(vm: &VmReference, mode: StopMode) -> serde_json::Result<Self> {
        Self::post(&of(vm, "/stop")).with(&Stop { mode })
    }

    pub(crate) fn wait(vm: &VmReference) -> Self {
        Self::post(&of(vm, "/wait"))
    }

    pub(crate) fn console(vm: &VmReference, typing: Typing, after: u64) -> Self {
        let access = match typing {
            Typing::Ask => "write",
            Typing::Take => "take",
            Typing::Never => "read",
        };
        Self::get(&of(vm, &format!("/console?access={access}&after={after}")))
    }

    pub(crate) fn console_log(vm: &VmReference, part: Part, following: Following) -> Self {
        let part = match part {
            Part::After(cursor) => format!("after={cursor}"),
            Part::Tail(bytes) => format!("tail={bytes}"),
        };
        let follow = following == Following::Yes;
        Self::get(&of(vm, &format!("/log?{part}&follow={follow}")))
    }

    pub(crate) fn pause(vm: &VmReference) -> Self {
        Self::post(&of(vm, "/pause"))
    }

    pub(crate) fn unpause(vm: &VmReference) -> Self {
        Self::post(&of(vm, "/unpause"))
    }

    pub(crate) fn exec(vm: &VmReference) -> Self {
        Self::post(&of(vm, "/exec"))
    }

    pub(crate) fn run(definition: &NewRun) -> serde_json::Result<Self> {
        Self::post("run").with(definition)
    }

    pub(crate) fn cursor() -> Self {
        Self::get("events")
    }

    pub(crate) fn events(after: u64, wait_seconds: u64) -> Self {
        Self::get(&format!("events?after={after}&wait={wait_seconds}"))
    }

    pub(crate) fn switches() -> Self {
        Self::get("switches")
    }

    pub(crate) fn reload() -> Self {
        Self::post("reload")
    }

    pub(crate) fn load(path: &str) -> serde_json::Result<Self> {
        Self::post("load").with(&Load { path: path.to_owned() })
    }

    pub(crate) fn reset(what: ResetScope) -> serde_json::Result<Self> {
        Self::post("reset").with(&Reset { what })
    }

    pub(crate) fn log(verbosity: Verbosity) -> serde_json::Result<Self> {
        Self::post("log").with(&Log { verbosity })
    }

    fn get(target: &str) -> Self {
        Self { method: Method::GET, target: format!("/{VERSION}/{target}"), body: None, upgrade: None }
    }

    fn post(target: &str) -> Self {
        Self { method: Method::POST, ..Self::get(target) }
    }

    fn with(self, body: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self { body: Some(serde_json::to_vec(body)?), ..self })
    }
}

/// The path of a virtual machine, and of something that is done with it.
fn of(vm: &VmReference, verb: &str) -> String {
    format!("vms/{}{verb}", escaped(&vm.to_string()))
}

fn escaped(segment: &str) -> String {
    let mut path = String::with_capacity(segment.len());
    // A segment of dots alone means another folder.
    let is_dots = segment.bytes().all(|byte| byte == b'.');
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !is_dots) {
            path.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> VmReference {
        VmReference::Name(name.into())
    }

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        for (name, path) in [
            ("web-1.example_x~", "/v1/vms/web-1.example_x~"),
            ("../../etc", "/v1/vms/..%2F..%2Fetc"),
            ("..", "/v1/vms/%2E%2E"),
            ("a b?c#d%e", "/v1/vms/a%20b%3Fc%23d%25e"),
            ("ä\r\n", "/v1/vms/%C3%A4%0D%0A"),
        ] {
            assert_eq!(Route::show(&named(name)).target, path);
        }
        assert_eq!(Route::start(&VmReference::Id(VmId(7))).target, "/v1/vms/7/start");
    }

    #[test]
    fn bodies_are_json() {
        let stop = Route::stop(&named("x"), StopMode::Force).unwrap();
        assert_eq!((stop.method, stop.body), (Method::POST, Some(br#"{"mode":"force"}"#.to_vec())));
        assert_eq!(Route::reset(ResetScope::Vms).unwrap().body, Some(br#"{"what":"vms"}"#.to_vec()));
        assert_eq!(Route::events(7, 30).target, "/v1/events?after=7&wait=30");
    }
}
