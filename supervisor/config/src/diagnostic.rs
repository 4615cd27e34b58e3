//! What is wrong with a configuration, or suspicious about it, and how that is shown.

use std::fmt::{self, Write};

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};

use crate::limits::{MAX_EXCERPT_BYTES, MAX_SHOWN};
use crate::source::{SourceMap, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration can be used.
    Warning,
    /// It can't.
    Error,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What it is: vmd's words where vmd has some.
    pub message: String,
    /// The place, if there is one.
    pub span: Option<Span>,
    /// What is to be said about the place.
    pub label: Option<String>,
    /// Other places that have to do with it.
    pub related: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub(crate) fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self { severity, message: message.into(), span: None, label: None, related: Vec::new(), help: None }
    }

    /// An error at `span`.
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::new(Severity::Error, message) }
    }

    /// A warning at `span`.
    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::new(Severity::Warning, message) }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All messages about a configuration, with the texts that they are about.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub(crate) sources: SourceMap,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// How messages are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With colours, for a terminal.
    Colored,
}

impl Report {
    /// All messages, in the order in which they were found.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The texts.
    pub fn sources(&self) -> &SourceMap {
        &self.sources
    }

    /// Number of errors.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// `file:line:column: message` for each message, the short form for a log.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.diagnostics.iter().map(|diagnostic| self.line(diagnostic))
    }

    fn line(&self, diagnostic: &Diagnostic) -> String {
        let severity = if diagnostic.severity == Severity::Warning { "warning: " } else { "" };
        let Some(span) = diagnostic.span else { return format!("{severity}{}", diagnostic.message) };
        let (line, column) = self.sources.position(span);
        format!("{}:{line}:{column}: {severity}{}", self.sources.path(span.source).display(), diagnostic.message)
    }

    /// Every message with the line that it is about, a caret, and the remedy.
    pub fn render(&self, style: Style) -> String {
        let renderer = if style == Style::Colored { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in self.diagnostics.iter().take(MAX_SHOWN) {
            out.push_str(&renderer.render(&self.groups(diagnostic)));
            out.push_str("\n\n");
        }
        let rest = self.diagnostics.len().saturating_sub(MAX_SHOWN);
        if rest > 0 {
            // Writing to a string does not fail.
            let _ = writeln!(out, "and {rest} more\n");
        }
        out
    }

    fn groups<'a>(&'a self, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
        let level = if diagnostic.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = match diagnostic.span {
            None => Group::with_title(title),
            Some(span) => {
                let mut group = title.element(self.snippet(span, AnnotationKind::Primary, diagnostic.label.as_deref()));
                for (other, label) in &diagnostic.related {
                    group = group.element(self.snippet(*other, AnnotationKind::Context, Some(label)));
                }
                group
            }
        };
        let expansion = diagnostic.span.and_then(|span| self.sources.expansion(span));
        if let Some(expansion) = expansion {
            group = group.element(Level::NOTE.message(format!("macro '{}' is: {}", expansion.name, expansion.value)));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        vec![group]
    }

    /// The lines of a place with what marks it; or its position alone, if the lines are too long to be read.
    fn snippet<'a>(&'a self, span: Span, kind: AnnotationKind, label: Option<&'a str>) -> Element<'a> {
        let path = self.sources.path(span.source).to_string_lossy().into_owned();
        let (number, start, lines) = self.sources.lines(span);
        if lines.len() > MAX_EXCERPT_BYTES {
            let (line, column) = self.sources.position(span);
            return Origin::path(path).line(line).char_column(column).into();
        }
        let marked = span.start.saturating_sub(start)..span.end.saturating_sub(start);
        Snippet::source(lines).line_start(number).path(path).annotation(kind.span(marked).label(label)).into()
    }
}

impl fmt::Display for Report {
    /// [Rendered](Report::render) without colours.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(Style::Plain))
    }
}

/// The word among `candidates` that was most likely meant by `word`, if one is near enough.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let near = candidates.into_iter().map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate));
    let (distance, candidate) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= (length / 3).max(1) && distance < length).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        let words = ["memory", "disk", "interface", "interfaces", "up"];
        assert_eq!(closest("memroy", words), Some("memory"));
        assert_eq!(closest("interfcae", words), Some("interface"));
        assert_eq!(closest("dsk", words), Some("disk"));
        assert_eq!(closest("u", words), None);
        assert_eq!(closest("kernel", words), None);
    }
}
