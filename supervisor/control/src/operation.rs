//! What an operation of the API is: the server and the OpenAPI document are both made from a table of these.

use std::borrow::Cow;

use hyper::Method;
use stockade_api::{Error, ErrorCode, Request};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use crate::call::Call;
use crate::console::{Attach, Log};
use crate::events::Follow;
use crate::table::OPERATIONS;

/// A method on a path.
pub(crate) struct Operation {
    pub method: Method,
    /// Below the version; `{vm}` in it is the number or name of a virtual machine.
    pub path: &'static str,
    /// Its name in clients that are made from the document.
    pub id: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub parameters: &'static [Parameter],
    pub input: Input,
    pub output: Output,
    /// What can fail besides what can fail everywhere.
    pub failures: &'static [ErrorCode],
    pub task: fn(&Call) -> Result<Task, Error>,
}

/// What there is to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Ask the backend.
    Ask(Request),
    /// Ask the backend for events, once or again and again.
    Follow(Follow),
    /// Turn the connection into a stream.
    Attach(Attach),
    /// Show what a console keeps.
    Log(Log),
    /// Show the document.
    Describe,
}

/// A value that a request has besides its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    pub name: &'static str,
    pub place: Place,
    pub description: &'static str,
    pub values: Values,
}

/// Where a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Path,
    Query,
    Header,
    RequiredHeader,
}

/// What a parameter can be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values {
    Text,
    Numbers { least: u64, most: u64 },
    Words(&'static [&'static str]),
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(crate) enum Input {
    None,
    Optional(Shape),
    Required(Shape),
}

/// What comes back from an operation that succeeds.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    /// 200 with a body.
    Found(Shape),
    /// 201 with a body, and where to find it.
    Created(Shape),
    /// 200 with a page of events, or with a stream of them.
    Events(Shape),
    /// 101, after which the connection carries bytes in this protocol.
    Stream(&'static str),
    /// 200 with the bytes of a console.
    Log,
    /// 204.
    Done,
    /// 200 with the document.
    Document,
}

/// The schema of a type.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub name: fn() -> Cow<'static, str>,
    pub schema: fn() -> RefOr<Schema>,
    pub within: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Shape {
    pub(crate) const fn of<T: ToSchema>() -> Self {
        Self { name: T::name, schema: T::schema, within: T::schemas }
    }
}

/// What can fail whatever is asked for.
pub(crate) const COMMON_FAILURES: &[ErrorCode] = &[
    ErrorCode::InvalidRequest,
    ErrorCode::NotPermitted,
    ErrorCode::RequestTimeout,
    ErrorCode::HeadTooLarge,
    ErrorCode::TooManyRequests,
    ErrorCode::Interrupted,
    ErrorCode::ShuttingDown,
    ErrorCode::Internal,
];

/// What else can fail with a body.
pub(crate) const BODY_FAILURES: &[ErrorCode] = &[ErrorCode::BodyTooLarge, ErrorCode::UnsupportedMediaType];

impl Operation {
    /// Everything that can fail.
    pub(crate) fn all_failures(&self) -> impl Iterator<Item = ErrorCode> {
        let of_body = if matches!(self.input, Input::None) { &[] } else { BODY_FAILURES };
        COMMON_FAILURES.iter().chain(of_body).chain(self.failures).copied()
    }
}

/// The operations of a path, and what the path says.
pub(crate) struct Found<'a> {
    /// Never empty.
    pub operations: Vec<&'static Operation>,
    /// What stands in the place of `{vm}`, as it was sent.
    pub vm: Option<&'a str>,
}

/// Looks a path up.
pub(crate) fn find(path: &str) -> Option<Found<'_>> {
    let below = path.strip_prefix('/')?.strip_prefix(stockade_api::VERSION)?;
    let mut vm = None;
    let operations: Vec<_> = OPERATIONS
        .iter()
        .filter(|operation| match matched(operation.path, below) {
            None => false,
            Some(found) => {
                vm = vm.or(found);
                true
            }
        })
        .collect();
    (!operations.is_empty()).then_some(Found { operations, vm })
}

/// Whether `path` is one of `pattern`, and what stands in the place of `{vm}`.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<Option<&'a str>> {
    let mut vm = None;
    let (mut expected, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (expected.next(), segments.next()) {
            (None, None) => return Some(vm),
            (Some("{vm}"), Some(segment)) if !segment.is_empty() => vm = Some(segment),
            (Some(word), Some(segment)) if word == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_whole() {
        let found = find("/v1/vms/a%2Fb/start").unwrap();
        assert_eq!(found.vm, Some("a%2Fb"));
        assert_eq!(found.operations.iter().map(|operation| operation.id).collect::<Vec<_>>(), ["start_vm"]);
        let found = find("/v1/vms").unwrap();
        assert_eq!(
            found.operations.iter().map(|operation| operation.id).collect::<Vec<_>>(),
            ["list_vms", "create_vm"]
        );
        for unknown in
            ["", "/", "*", "/v1", "/v1/", "/v1/vms/", "/v1/vms//start", "/v2/vms", "/v1vms", "/v1/vms/a/b", "//v1/vms"]
        {
            assert!(find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn operations_have_names_of_their_own() {
        for (index, operation) in OPERATIONS.iter().enumerate() {
            for other in OPERATIONS.iter().skip(index + 1) {
                assert_ne!(operation.id, other.id);
                assert_ne!((&operation.method, operation.path), (&other.method, other.path));
            }
        }
    }
}
