//! Where answers go: documents and tables on standard output, one line about what was done on standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use stockade_supervisor::text::printable;

use crate::failure::{Failure, Format};
use crate::run::say;
use crate::terminal;

/// What becomes of a verb.
pub type Outcome = Result<(), Failure>;

/// How answers are shown.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
}

impl Output {
    /// Shows answers as `format` says.
    pub const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether answers are documents.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// An answer: the document, or a line about it.
    pub fn show(self, document: &impl Serialize, line: impl FnOnce() -> String) -> Outcome {
        if self.is_json() {
            return self.document(document);
        }
        say(&printable(&line()));
        Ok(())
    }

    /// An answer that says no more than that it was done.
    pub fn done(self) -> Outcome {
        if self.is_json() { self.document(&serde_json::json!({})) } else { Ok(()) }
    }

    /// A document, over several lines.
    pub fn document(self, document: &impl Serialize) -> Outcome {
        let text = serde_json::to_string_pretty(document).map_err(|error| failed(error.into()))?;
        self.text(&format!("{text}\n"))
    }

    /// Text that is fit for a terminal.
    pub fn text(self, text: &str) -> Outcome {
        let mut output = io::stdout().lock();
        let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        written.map_err(failed)
    }
}

/// Columns of the terminal that standard output is; none if it is something else.
pub fn width() -> Option<u16> {
    io::stdout().is_terminal().then(|| terminal::size().columns)
}

/// Standard output can't be written to.
pub fn failed(error: io::Error) -> Failure {
    Failure::own("write to standard output", &error)
}
