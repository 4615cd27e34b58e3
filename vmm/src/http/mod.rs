//! HTTP/1.1 as the per-VM API speaks it: bytes in, requests out; answers in, bytes out. No I/O.
//!
//! What a client can see follows Firecracker's HTTP library byte for byte where clients depend on it: no reason phrase, a
//! fixed order of headers, connections that stay open whatever the client asks for, `Content-Length` as the only framing
//! of bodies. Everything that a client can make the [reader] keep is bounded.

pub mod error;
pub mod reader;
pub mod response;

pub use error::HttpError;
pub use reader::{Reader, Received};
pub use response::Response;

/// Methods that the API knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Method {
    /// The method of this name, which is case-sensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "GET" => Some(Self::Get),
            "PUT" => Some(Self::Put),
            "PATCH" => Some(Self::Patch),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }

    /// Its name in a request line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Absolute path of its target, query included; empty if the target is neither a path nor an `http` URL with one.
    pub path: String,
    /// Its body; empty if it has none.
    pub body: Vec<u8>,
}
