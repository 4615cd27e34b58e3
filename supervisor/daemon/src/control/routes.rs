//! The routes of the control API, and what each asks the parent for.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/version` | | `Version` |
//! | `GET /v1/vms` | | `VmPage`, with all of them |
//! | `POST /v1/vms` | `NewVm` | 201, `VmSummary` once the guest runs |
//! | `GET /v1/vms/{vm}` | | `VmSummary` |
//! | `POST /v1/vms/{vm}/start` | | `VmSummary` once the guest runs |
//! | `POST /v1/vms/{vm}/stop` | `{"mode": "ask" or "force"}`, or none | `{"exit": Exit}` once it is over |
//! | `POST /v1/vms/{vm}/wait` | | `{"exit": Exit or null}` once it is over |
//! | `POST /v1/vms/{vm}/pause`, `unpause` | | `VmSummary` |
//! | `GET /v1/events?after=CURSOR&wait=SECONDS` | | `EventPage`, as soon as there is an event or the wait is over |
//! | `POST /v1/reload`; `load`; `reset`; `log` | `{"path"}`; `{"what"}`; `{"verbosity"}` | 204 |
//!
//! Everything else is an [`Error`], with the status that its code has.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stockade_api::body::VmPage;
use stockade_api::request::NewVm;
use stockade_api::{
    Answer, Error, ErrorCode, EventPage, Exit, Request, ResetScope, StopMode, Verbosity, VmId, VmReference, VmSummary,
};

use super::link::Link;
use crate::roles::frame::Connection;

/// Most bytes of a body.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The client of a connection, and whom to ask.
#[derive(Debug, Clone)]
struct Client {
    connection: Connection,
    link: Link,
}

/// The routes, for one client.
pub(super) fn router(connection: Connection, link: Link) -> Router {
    let api = Router::new()
        .route("/version", get(version))
        .route("/vms", get(list).post(create))
        .route("/vms/{vm}", get(show))
        .route("/vms/{vm}/start", post(start))
        .route("/vms/{vm}/stop", post(stop))
        .route("/vms/{vm}/wait", post(wait))
        .route("/vms/{vm}/pause", post(pause))
        .route("/vms/{vm}/unpause", post(unpause))
        .route("/events", get(events))
        .route("/reload", post(reload))
        .route("/load", post(load))
        .route("/reset", post(reset))
        .route("/log", post(log));
    Router::new()
        .nest("/v1", api)
        .fallback(async || refusal("there is no such path", 404))
        .method_not_allowed_fallback(async || refusal("this path has other methods", 405))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Client { connection, link })
}

/// An error, as an answer.
#[derive(Debug)]
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

fn refusal(message: &str, status: u16) -> Response {
    let error = Error::new(ErrorCode::InvalidRequest, message, "the paths are in the documentation of the control API");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
    (status, Json(error)).into_response()
}

type Result<T> = std::result::Result<T, Failure>;

impl Client {
    async fn ask(&self, request: Request) -> Result<Answer> {
        Ok(self.link.ask(self.connection, request).await?)
    }

    async fn ask_for_vm(&self, request: Request) -> Result<Json<VmSummary>> {
        match self.ask(request).await? {
            Answer::Vm(vm) => Ok(Json(*vm)),
            _ => Err(unexpected()),
        }
    }

    async fn ask_for_exit(&self, request: Request) -> Result<Json<Ended>> {
        match self.ask(request).await? {
            Answer::Exit(exit) => Ok(Json(Ended { exit })),
            _ => Err(unexpected()),
        }
    }

    async fn ask_to(&self, request: Request) -> Result<StatusCode> {
        self.ask(request).await.map(|_| StatusCode::NO_CONTENT)
    }
}

fn unexpected() -> Failure {
    Failure(Error::new(ErrorCode::Internal, "the daemon has answered something else", "report it"))
}

/// The body as JSON; one that is left out is the default.
fn body<T: DeserializeOwned + Default>(bytes: &Bytes) -> Result<T> {
    if bytes.is_empty() { Ok(T::default()) } else { required(bytes) }
}

fn required<T: DeserializeOwned>(bytes: &Bytes) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure(Error::new(
            ErrorCode::InvalidRequest,
            format!("the body: {error}"),
            "send the JSON that the API describes",
        ))
    })
}

fn named(vm: &str) -> VmReference {
    let Ok(reference) = vm.parse();
    reference
}

#[derive(Debug, Serialize)]
struct Ended {
    exit: Option<Exit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    #[serde(default)]
    mode: StopMode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    #[serde(default)]
    what: ResetScope,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    verbosity: Verbosity,
}

async fn version(State(client): State<Client>) -> Result<Response> {
    match client.ask(Request::Version).await? {
        Answer::Version(version) => Ok(Json(version).into_response()),
        _ => Err(unexpected()),
    }
}

async fn list(State(client): State<Client>) -> Result<Json<VmPage>> {
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map_or(VmId(0), |vm: &VmSummary| vm.id);
        let Answer::List { vms, more } = client.ask(Request::List { after }).await? else { return Err(unexpected()) };
        let is_last = !more || vms.is_empty();
        listed.extend(vms);
        if is_last {
            return Ok(Json(VmPage { vms: listed, more: false }));
        }
    }
}

async fn show(State(client): State<Client>, Path(vm): Path<String>) -> Result<Json<VmSummary>> {
    client.ask_for_vm(Request::Show { vm: named(&vm) }).await
}

async fn create(State(client): State<Client>, bytes: Bytes) -> Result<Response> {
    let definition: NewVm = required(&bytes)?;
    let vm = client.ask_for_vm(Request::Create { definition: Box::new(definition) }).await?;
    let location = format!("/v1/vms/{}", vm.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], vm).into_response())
}

async fn start(State(client): State<Client>, Path(vm): Path<String>) -> Result<Json<VmSummary>> {
    client.ask_for_vm(Request::Start { vm: named(&vm) }).await
}

async fn stop(State(client): State<Client>, Path(vm): Path<String>, bytes: Bytes) -> Result<Json<Ended>> {
    let Stop { mode } = body(&bytes)?;
    client.ask_for_exit(Request::Stop { vm: named(&vm), mode }).await
}

async fn wait(State(client): State<Client>, Path(vm): Path<String>) -> Result<Json<Ended>> {
    client.ask_for_exit(Request::Wait { vm: named(&vm) }).await
}

async fn pause(State(client): State<Client>, Path(vm): Path<String>) -> Result<Json<VmSummary>> {
    client.ask_for_vm(Request::Pause { vm: named(&vm) }).await
}

async fn unpause(State(client): State<Client>, Path(vm): Path<String>) -> Result<Json<VmSummary>> {
    client.ask_for_vm(Request::Unpause { vm: named(&vm) }).await
}

/// How long a client waits for an event that says nothing about it, and at most, in seconds.
const DEFAULT_WAIT: u64 = 30;
const LONGEST_WAIT: u64 = 60;

async fn events(State(client): State<Client>, RawQuery(query): RawQuery) -> Result<Response> {
    let (mut after, mut wait) = (None, DEFAULT_WAIT);
    for parameter in query.iter().flat_map(|query| query.split('&')).filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name, value.parse()) {
            ("after", Ok(cursor)) => after = Some(cursor),
            ("wait", Ok(seconds)) => wait = seconds,
            _ => {
                let message = "the query is no cursor";
                return Err(Error::new(ErrorCode::InvalidRequest, message, "write ?after=NUMBER&wait=SECONDS").into());
            }
        }
    }
    let wait = Duration::from_secs(wait.clamp(1, LONGEST_WAIT));
    match (tokio::time::timeout(wait, client.ask(Request::Events { after })).await, after) {
        (Ok(answer), _) => match answer? {
            Answer::Events(page) => Ok(Json(page).into_response()),
            _ => Err(unexpected()),
        },
        (Err(_), Some(next)) => Ok(Json(EventPage { events: Vec::new(), next }).into_response()),
        (Err(_), None) => Err(unexpected()),
    }
}

async fn reload(State(client): State<Client>) -> Result<StatusCode> {
    client.ask_to(Request::Reload).await
}

async fn load(State(client): State<Client>, bytes: Bytes) -> Result<StatusCode> {
    let Load { path } = required(&bytes)?;
    client.ask_to(Request::Load { path }).await
}

async fn reset(State(client): State<Client>, bytes: Bytes) -> Result<StatusCode> {
    let Reset { what } = body(&bytes)?;
    client.ask_to(Request::Reset { what }).await
}

async fn log(State(client): State<Client>, bytes: Bytes) -> Result<StatusCode> {
    let Log { verbosity } = required(&bytes)?;
    client.ask_to(Request::Log { verbosity }).await
}
