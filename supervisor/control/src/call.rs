//! One request of HTTP, taken apart strictly: whatever is not understood is refused by name.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, UPGRADE};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stockade_api::{Error, VmReference};

use crate::failure;
use crate::json;
use crate::limits::Limits;
use crate::operation::{Input, Operation, Parameter, Place};

/// What a request says.
pub(crate) struct Call {
    pub headers: HeaderMap,
    vm: Option<VmReference>,
    query: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Call {
    /// Reads a request of `operation` whose path says `vm`.
    pub(crate) async fn read<B>(
        operation: &Operation,
        vm: Option<&str>,
        request: hyper::Request<B>,
        limits: &Limits,
    ) -> Result<Self, Error>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let query = read_query(operation.parameters, request.uri().query())?;
        let vm = vm.map(read_vm).transpose()?;
        let (head, body) = request.into_parts();
        let body = read_body(body, &head.headers, limits).await?;
        check_body(operation.input, &head.headers, &body)?;
        Ok(Self { headers: head.headers, vm, query, body })
    }

    /// The virtual machine in the path.
    pub(crate) fn vm(&self) -> Result<VmReference, Error> {
        self.vm.clone().ok_or_else(|| failure::internal("the path has no virtual machine"))
    }

    /// A number in the query between `least` and `most`, if it is there.
    pub(crate) fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Error> {
        let found = self.query.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| read_number(&format!("query parameter {name}"), value, least, most)).transpose()
    }

    /// One of these words in the query, if it is there.
    pub(crate) fn word(&self, name: &str, known: &'static [&'static str]) -> Result<Option<&'static str>, Error> {
        let Some((_, value)) = self.query.iter().find(|(parameter, _)| *parameter == name) else { return Ok(None) };
        known.iter().find(|word| **word == value).copied().map(Some).ok_or_else(|| {
            let message = format!("query parameter {name}: {} is not known", failure::quoted(value));
            failure::invalid(message, format!("known: {}", known.join(", ")))
        })
    }

    /// Refuses a client that does not say that it goes on in `protocol`.
    pub(crate) fn expect_upgrade(&self, protocol: &str) -> Result<(), Error> {
        let offered = self.headers.get_all(UPGRADE).into_iter().filter_map(|value| value.to_str().ok());
        let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
        if offered.any(|offer| offer.eq_ignore_ascii_case(protocol)) {
            return Ok(());
        }
        Err(failure::upgrade_required(protocol))
    }

    /// The body.
    pub(crate) fn body<T: DeserializeOwned + Serialize>(&self) -> Result<T, Error> {
        json::read(&self.body)
    }

    /// The body, or what goes for none.
    pub(crate) fn body_or_default<T: DeserializeOwned + Serialize + Default>(&self) -> Result<T, Error> {
        if self.body.is_empty() { Ok(T::default()) } else { self.body() }
    }
}

/// A decimal number between `least` and `most`, without a sign or leading zeros.
pub(crate) fn read_number(what: &str, text: &str, least: u64, most: u64) -> Result<u64, Error> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = plain.then(|| text.parse().ok()).flatten();
    number.filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        let message = format!("{what}: {} is not a number from {least} to {most}", failure::quoted(text));
        failure::invalid(message, "give a decimal number in that range, or leave it out")
    })
}

fn decoded(what: &str, text: &str) -> Result<String, Error> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| {
        failure::invalid(format!("{what}: {} is not UTF-8", failure::quoted(text)), "encode it as UTF-8")
    })?;
    Ok(decoded.into_owned())
}

fn read_vm(segment: &str) -> Result<VmReference, Error> {
    let name = decoded("virtual machine in the path", segment)?;
    match name.parse() {
        Ok(reference) => Ok(reference),
        Err(impossible) => match impossible {},
    }
}

fn read_query(known: &[Parameter], query: Option<&str>) -> Result<Vec<(&'static str, String)>, Error> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded("query parameter", name)?;
        let mut in_query = known.iter().filter(|parameter| parameter.place == Place::Query);
        let Some(parameter) = in_query.clone().find(|parameter| parameter.name == name) else {
            let message = format!("there is no query parameter {} here", failure::quoted(&name));
            let names: Vec<_> = in_query.by_ref().map(|parameter| parameter.name).collect();
            let remedy = if names.is_empty() { "leave it out".into() } else { format!("known: {}", names.join(", ")) };
            return Err(failure::invalid(message, remedy));
        };
        if found.iter().any(|(name, _)| *name == parameter.name) {
            let message = format!("query parameter {} is there twice", parameter.name);
            return Err(failure::invalid(message, "give it once"));
        }
        found.push((parameter.name, decoded(&format!("query parameter {}", parameter.name), value)?));
    }
    Ok(found)
}

async fn read_body<B>(body: B, headers: &HeaderMap, limits: &Limits) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > limits.body_bytes)) {
        return Err(failure::body_too_large(limits.body_bytes));
    }
    let whole = tokio::time::timeout(limits.body_time, Limited::new(body, limits.body_bytes).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(failure::body_too_large(limits.body_bytes)),
        Ok(Err(error)) => Err(failure::invalid(format!("the body can't be read: {error}"), "send all of it")),
        Err(_) => Err(failure::timeout("body", limits.body_time.as_secs())),
    }
}

fn check_body(input: Input, headers: &HeaderMap, body: &Bytes) -> Result<(), Error> {
    if body.is_empty() {
        return match input {
            Input::Required(_) => Err(failure::invalid("the body is missing", "")),
            Input::None | Input::Optional(_) => Ok(()),
        };
    }
    if matches!(input, Input::None) {
        return Err(failure::invalid("this request has a body, and can't have one", "leave it out"));
    }
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(failure::unsupported_media_type(
            "Content-Encoding",
            Some(&String::from_utf8_lossy(encoding.as_bytes())),
        ));
    }
    let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match content_type.as_deref().map(|value| value.split(';').next().unwrap_or_default().trim()) {
        Some(kind) if kind.eq_ignore_ascii_case("application/json") => Ok(()),
        kind => Err(failure::unsupported_media_type("Content-Type", kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_and_in_range() {
        assert_eq!(read_number("n", "0", 0, 9), Ok(0));
        assert_eq!(read_number("n", "18446744073709551615", 0, u64::MAX), Ok(u64::MAX));
        for bad in ["", "-1", "+1", "01", "1.0", "10", "18446744073709551616", " 1"] {
            assert!(read_number("n", bad, 0, 9).is_err(), "{bad:?}");
        }
    }
}
