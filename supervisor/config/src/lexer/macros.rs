//! Macros: those of the command line win over those of the files.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Severity, closest};
use crate::source::Span;

/// A macro of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macro {
    /// Its name.
    pub name: String,
    /// What stands for it.
    pub value: String,
}

/// No macro.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not parse macro definition {0}; write name=value")]
pub struct InvalidMacro(pub String);

impl std::str::FromStr for Macro {
    type Err = InvalidMacro;

    /// `name=value`, split at the last `=`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.rsplit_once('=').ok_or_else(|| InvalidMacro(text.to_owned()))?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

#[derive(Debug)]
struct Entry {
    value: String,
    /// Where it is defined; [`None`] on the command line.
    span: Option<Span>,
    used: bool,
}

/// All macros that are defined.
#[derive(Debug, Default)]
pub(super) struct Macros(BTreeMap<String, Entry>);

impl Macros {
    pub(super) fn new(command_line: &[Macro]) -> Self {
        // The first of equal names wins, as in vmd.
        let mut macros = BTreeMap::new();
        for Macro { name, value } in command_line {
            macros.entry(name.clone()).or_insert_with(|| Entry { value: value.clone(), span: None, used: false });
        }
        Self(macros)
    }

    /// Defines a macro in a file.
    pub(super) fn define(&mut self, name: String, value: String, span: Span) {
        let is_persistent = self.0.get(&name).is_some_and(|entry| entry.span.is_none());
        if !is_persistent {
            self.0.insert(name, Entry { value, span: Some(span), used: false });
        }
    }

    /// The value of the macro that is used at `span`.
    pub(super) fn take(&mut self, name: &str, span: Span) -> Result<&str, Box<Diagnostic>> {
        if !self.0.contains_key(name) {
            let error = Diagnostic::error(span, format!("macro '{name}' not defined"));
            let similar = closest(name, self.0.keys().map(String::as_str));
            return Err(Box::new(error.help(match similar {
                Some(similar) => format!("did you mean '${similar}'?"),
                None => format!("define it above with {name} = \"value\", or with -D {name}=value"),
            })));
        }
        let entry = self.0.get_mut(name).map(|entry| {
            entry.used = true;
            &*entry.value
        });
        Ok(entry.unwrap_or_default())
    }

    /// What is to be said about macros that nobody used.
    pub(super) fn unused(&self) -> impl Iterator<Item = Diagnostic> {
        self.0.iter().filter(|(_, entry)| !entry.used).map(|(name, entry)| {
            let message = format!("macro '{name}' not used");
            match entry.span {
                Some(span) => Diagnostic::warning(span, message),
                None => Diagnostic::new(Severity::Warning, message),
            }
        })
    }
}
