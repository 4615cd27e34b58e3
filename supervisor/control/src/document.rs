//! The OpenAPI document of the table.

use std::collections::BTreeMap;

use serde_json::json;
use stockade_api::{Error, ErrorCode, VERSION};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{
    ComponentsBuilder, Content, HttpMethod, InfoBuilder, License, OpenApi, OpenApiBuilder, PathItem, Ref, Required,
    Response, ResponseBuilder, Server,
};

use crate::console;
use crate::operation::{Input, Operation, Output, Parameter, Place, Shape, Values};
use crate::table::OPERATIONS;

const DESCRIPTION: &str = "\
The API of Stockade's daemon on its control socket: `curl --unix-socket /run/stockade/control.sock http://localhost/v1/vms`. \
Who the caller is, the daemon learns from the kernel; there is nothing to log in with.

Requests are read strictly: what is not in this document is refused, and the message names it. Every answer that is no \
success has an `Error` as its body, whose `code` never changes its meaning. Besides the failures of each operation there are \
`unknown_path` (404) and `method_not_allowed` (405, with `Allow`).";

/// The document.
pub(crate) fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for operation in OPERATIONS {
        paths = paths.path(operation.path, PathItem::new(method(operation), describe(operation)));
    }
    let license = License::builder().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Stockade control API")
        .version(VERSION)
        .description(Some(DESCRIPTION))
        .license(Some(license));
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new(format!("/{VERSION}"))]))
        .paths(paths)
        .components(Some(components()))
        .build()
}

fn components() -> utoipa::openapi::Components {
    let mut schemas = Vec::new();
    for shape in OPERATIONS.iter().flat_map(shapes).chain([Shape::of::<Error>(), Shape::of::<stockade_api::Event>()]) {
        schemas.push(((shape.name)().into_owned(), (shape.schema)()));
        (shape.within)(&mut schemas);
    }
    ComponentsBuilder::new().schemas_from_iter(schemas).build()
}

fn shapes(operation: &Operation) -> Vec<Shape> {
    let input = match operation.input {
        Input::None => None,
        Input::Optional(shape) | Input::Required(shape) => Some(shape),
    };
    let output = match operation.output {
        Output::Found(shape) | Output::Created(shape) | Output::Events(shape) => Some(shape),
        Output::Done | Output::Document | Output::Stream(_) | Output::Log => None,
    };
    input.into_iter().chain(output).collect()
}

fn method(operation: &Operation) -> HttpMethod {
    if operation.method == hyper::Method::GET { HttpMethod::Get } else { HttpMethod::Post }
}

fn reference(shape: Shape) -> Ref {
    Ref::from_schema_name((shape.name)())
}

fn describe(operation: &Operation) -> OperationBuilder {
    let mut described = OperationBuilder::new().operation_id(Some(operation.id)).summary(Some(operation.summary));
    if !operation.description.is_empty() {
        described = described.description(Some(operation.description));
    }
    for parameter in operation.parameters {
        described = described.parameter(describe_parameter(parameter));
    }
    let body = match operation.input {
        Input::None => None,
        Input::Optional(shape) => Some((shape, Required::False)),
        Input::Required(shape) => Some((shape, Required::True)),
    };
    let body = body.map(|(shape, required)| {
        let content = Content::new(Some(reference(shape)));
        RequestBodyBuilder::new().content("application/json", content).required(Some(required)).build()
    });
    let (status, success) = describe_success(operation.output);
    described = described.request_body(body).response(status, success);
    for (status, codes) in failures(operation) {
        described = described.response(status.to_string(), describe_failure(&codes));
    }
    described
}

fn describe_parameter(parameter: &Parameter) -> ParameterBuilder {
    let (place, required) = match parameter.place {
        Place::Path => (ParameterIn::Path, Required::True),
        Place::Query => (ParameterIn::Query, Required::False),
        Place::Header => (ParameterIn::Header, Required::False),
        Place::RequiredHeader => (ParameterIn::Header, Required::True),
    };
    let schema = match parameter.values {
        Values::Text => ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)),
        Values::Numbers { least, most } => {
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most))
        }
        Values::Words(words) => ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied())),
    };
    ParameterBuilder::new()
        .name(parameter.name)
        .parameter_in(place)
        .required(required)
        .description(Some(parameter.description))
        .schema(Some(schema))
}

fn describe_success(output: Output) -> (&'static str, Response) {
    let json = |shape| Content::new(Some(reference(shape)));
    let text = |text: &'static str| {
        ContentBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .description(Some(text))
            .build()
    };
    match output {
        Output::Found(shape) => {
            ("200", ResponseBuilder::new().description("Done.").content("application/json", json(shape)).build())
        }
        Output::Created(shape) => {
            let location = HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                .description(Some("Its path."))
                .build();
            let response = ResponseBuilder::new().description("Made, and started.").header("Location", location);
            ("201", response.content("application/json", json(shape)).build())
        }
        Output::Events(shape) => {
            let response = ResponseBuilder::new()
                .description("Events.")
                .content("application/json", json(shape))
                .content(
                    "text/event-stream",
                    text("One event after the other, with its cursor as `id` and an `Event` as `data`."),
                )
                .content("application/jsonl", text("One `Event` in each line."));
            ("200", response.build())
        }
        Output::Stream(protocol) => {
            let header = |value: &'static str, description: &'static str| {
                let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([value]));
                HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
            };
            let response = ResponseBuilder::new()
                .description("From here on the connection carries bytes.")
                .header("Connection", header("upgrade", ""))
                .header("Upgrade", header(protocol, "What they are."));
            ("101", response.build())
        }
        Output::Log => {
            let cursor = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
            let cursor = HeaderBuilder::new().schema(Some(cursor)).description(Some(console::CURSOR_DESCRIPTION));
            let response = ResponseBuilder::new()
                .description("What the guest wrote.")
                .header(console::CURSOR, cursor.build())
                .content("application/octet-stream", Content::new(None::<Ref>));
            ("200", response.build())
        }
        Output::Done => ("204", Response::new("Done.")),
        Output::Document => {
            let document = ObjectBuilder::new().schema_type(Type::Object);
            let response = ResponseBuilder::new().description("The document.");
            ("200", response.content("application/json", Content::new(Some(document))).build())
        }
    }
}

/// The operation's failures by their status.
fn failures(operation: &Operation) -> BTreeMap<u16, Vec<ErrorCode>> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in operation.all_failures() {
        let codes = by_status.entry(code.http_status()).or_default();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    by_status
}

fn describe_failure(codes: &[ErrorCode]) -> Response {
    let lines: Vec<_> = codes.iter().map(|code| format!("- `{code}`: {}", code.description())).collect();
    let names = codes.iter().map(|code| json!(code.name()));
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
    let schema = AllOfBuilder::new()
        .item(reference(Shape::of::<Error>()))
        .item(ObjectBuilder::new().schema_type(Type::Object).property("code", code));
    ResponseBuilder::new()
        .description(lines.join("\n"))
        .content("application/json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
