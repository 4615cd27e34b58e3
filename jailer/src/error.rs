//! Why a jail could not be built.

use std::io;

use crate::plan::Layer;

/// A step that failed; it stops the jail.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct JailError {
    /// The layer that the step belongs to, if it does to one.
    pub layer: Option<Layer>,
    /// What was tried, and on what.
    pub step: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl JailError {
    /// The error as one line, with what to do about it.
    pub fn explain(&self) -> String {
        let remedy = self.layer.map_or(String::new(), |layer| {
            format!("; the host lacks what this needs, or give it up with --without {}", layer.name())
        });
        format!("{}: {}{remedy}", self.step, self.source)
    }
}

/// Adds to an error of the kernel which step of which layer it is from.
pub(crate) trait Step<T> {
    /// The step belongs to `layer`.
    fn layer(self, layer: Layer, step: impl Into<String>) -> Result<T, JailError>;
    /// The step belongs to no layer.
    fn step(self, step: impl Into<String>) -> Result<T, JailError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn layer(self, layer: Layer, step: impl Into<String>) -> Result<T, JailError> {
        self.map_err(|source| JailError { layer: Some(layer), step: step.into(), source: source.into() })
    }

    fn step(self, step: impl Into<String>) -> Result<T, JailError> {
        self.map_err(|source| JailError { layer: None, step: step.into(), source: source.into() })
    }
}
