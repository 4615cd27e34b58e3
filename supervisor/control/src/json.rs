//! JSON, read strictly.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stockade_api::Error;

use crate::failure;

/// The value that is all of `bytes`.
pub(crate) fn read<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        unreadable(Some(&path), &error.into_inner())
    })?;
    deserializer.end().map_err(|error| unreadable(None, &error))?;
    refuse_arrays_for_objects(bytes, &value)?;
    Ok(value)
}

/// serde takes an array of a structure's fields for the structure; the document does not.
fn refuse_arrays_for_objects(bytes: &[u8], understood: &impl Serialize) -> Result<(), Error> {
    let given: Value = serde_json::from_slice(bytes).map_err(|error| unreadable(None, &error))?;
    let understood = serde_json::to_value(understood).map_err(|error| failure::internal(error.to_string()))?;
    let Some(path) = array_for_object(&given, &understood, String::new()) else { return Ok(()) };
    let field = if path.is_empty() { path } else { format!(", field {}", failure::quoted(&path)) };
    Err(failure::invalid(format!("body{field}: invalid type: array"), "expected an object"))
}

/// Where `given` has an array for an object of `understood`, if anywhere. As deep as `understood`, which is bounded by its
/// type.
fn array_for_object(given: &Value, understood: &Value, path: String) -> Option<String> {
    match (given, understood) {
        (Value::Array(_), Value::Object(_)) => Some(path),
        (Value::Array(given), Value::Array(understood)) => {
            let mut pairs = given.iter().zip(understood).enumerate();
            pairs.find_map(|(index, (given, understood))| {
                array_for_object(given, understood, format!("{path}[{index}]"))
            })
        }
        (Value::Object(given), Value::Object(understood)) => given.iter().find_map(|(name, given)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            array_for_object(given, understood.get(name)?, path)
        }),
        _ => None,
    }
}

/// What serde says, parted into what is wrong and what would be right.
fn unreadable(path: Option<&str>, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = text.strip_suffix(&place).unwrap_or(&text);
    let (problem, expected) = problem.split_once(", expected ").unwrap_or((problem, ""));
    // "?" stands for what had no name yet.
    let path = path.map(|path| path.trim_end_matches(['.', '?'])).filter(|path| !path.is_empty());
    let field = path.map(|path| format!(", field {}", failure::quoted(path)));
    let message = format!("body{place}{}: {problem}", field.unwrap_or_default());
    failure::invalid(message, if expected.is_empty() { String::new() } else { format!("expected {expected}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stockade_api::request::NewVm;

    #[test]
    fn what_is_wrong_with_a_body_is_said_with_field_and_place() {
        for (body, message, remedy) in [
            (
                "{",
                "body at line 1 column 1: EOF while parsing an object",
                "GET /v1/openapi.json describes every request",
            ),
            ("{}x", "body at line 1 column 2: missing field `name`", "GET /v1/openapi.json describes every request"),
            ("{\"name\":1}", "body at line 1 column 9, field \"name\": invalid type: integer `1`", "expected a string"),
            (
                "{\"name\":\"a\",\n \"disks\":[{\"path\":\"/d\",\"read_only\":3}]}",
                "body at line 2 column 36, field \"disks[0].read_only\": invalid type: integer `3`",
                "expected a boolean",
            ),
            (
                "{\"name\":\"a\"} {}",
                "body at line 1 column 14: trailing characters",
                "GET /v1/openapi.json describes every request",
            ),
        ] {
            let error = read::<NewVm>(body.as_bytes()).unwrap_err();
            assert_eq!((error.message.as_str(), error.remedy.as_str()), (message, remedy));
        }
        let error = read::<NewVm>(b"{\"name\":\"a\",\"memmory\":1}").unwrap_err();
        assert_eq!(error.message, "body at line 1 column 21, field \"memmory\": unknown field `memmory`");
        assert!(error.remedy.starts_with("expected one of `name`, `template`"), "{}", error.remedy);
    }

    #[test]
    fn arrays_are_no_objects() {
        let error = read::<stockade_api::body::Load>(br#"["/f"]"#).unwrap_err();
        assert_eq!(error.message, "body: invalid type: array");
        for (body, field) in [
            (r#"{"name":"a","disks":[{"path":"/d"},["/e",true]]}"#, "disks[1]"),
            (r#"{"name":"a","owner":[1,null]}"#, "owner"),
        ] {
            let message = format!("body, field {field:?}: invalid type: array");
            assert_eq!(read::<NewVm>(body.as_bytes()).unwrap_err().message, message);
        }
        assert!(read::<NewVm>(br#"{"name":"a","disks":[{"path":"/d"}],"owner":{"uid":1,"gid":2}}"#).is_ok());
    }
}
