//! The texts that a configuration comes from, and places in them.
//!
//! Invariant: a [`Span`] lies within its source, on boundaries of characters.

use std::path::{Path, PathBuf};

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

/// A part of a text, from byte `start` to before byte `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The text.
    pub source: SourceId,
    /// Its first byte.
    pub start: usize,
    /// The byte after its last one.
    pub end: usize,
}

impl Span {
    /// From the start of `self` to the end of `last`, or `self` if `last` is in another file.
    pub fn to(self, last: Self) -> Self {
        if self.source == last.source { Self { end: last.end.max(self.end), ..self } } else { self }
    }
}

/// Where a macro was used.
#[derive(Debug, Clone)]
pub(crate) struct Expansion {
    pub(crate) at: Span,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// One text.
#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    text: String,
    /// Where lines start: the first at 0.
    lines: Vec<usize>,
}

/// All texts that were read, and the macros that were used in them.
#[derive(Debug, Clone, Default)]
pub struct SourceMap {
    sources: Vec<Source>,
    expansions: Vec<Expansion>,
}

impl SourceMap {
    /// Adds a text. Bytes that are no UTF-8 are replaced.
    pub(crate) fn add(&mut self, path: PathBuf, bytes: &[u8]) -> SourceId {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines =
            std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline.saturating_add(1))).collect();
        self.sources.push(Source { path, text, lines });
        SourceId(self.sources.len().saturating_sub(1))
    }

    pub(crate) fn add_expansion(&mut self, expansion: Expansion) {
        self.expansions.push(expansion);
    }

    /// The macro whose value `span` starts in.
    pub(crate) fn expansion(&self, span: Span) -> Option<&Expansion> {
        self.expansions.iter().find(|expansion| expansion.at.source == span.source && expansion.at.start == span.start)
    }

    /// The text of a source.
    pub fn text(&self, id: SourceId) -> &str {
        self.sources.get(id.0).map_or("", |source| &source.text)
    }

    /// The text that `span` covers.
    pub fn slice(&self, span: Span) -> &str {
        self.text(span.source).get(span.start..span.end).unwrap_or("")
    }

    /// The file of a source, as it was named.
    pub fn path(&self, id: SourceId) -> &Path {
        self.sources.get(id.0).map_or(Path::new(""), |source| &source.path)
    }

    /// The folder that relative paths in a source start from.
    pub fn folder(&self, id: SourceId) -> &Path {
        self.path(id).parent().unwrap_or(Path::new(""))
    }

    /// Line and column where `span` starts, both counted from 1, columns in characters.
    pub fn position(&self, span: Span) -> (usize, usize) {
        let (line, start) = self.line(span.source, span.start);
        let before = self.text(span.source).get(start..span.start).unwrap_or("");
        (line, before.chars().count().saturating_add(1))
    }

    /// Number of the line that `at` is in, counted from 1, and where it starts.
    fn line(&self, source: SourceId, at: usize) -> (usize, usize) {
        let lines = self.sources.get(source.0).map_or(&[][..], |source| &source.lines);
        let number = lines.partition_point(|start| *start <= at).max(1);
        (number, lines.get(number.saturating_sub(1)).copied().unwrap_or(0))
    }

    /// The lines that `span` touches: the number of the first one, where it starts, and their text.
    pub(crate) fn lines(&self, span: Span) -> (usize, usize, &str) {
        let (number, start) = self.line(span.source, span.start);
        let text = self.text(span.source);
        let rest = text.get(span.end.max(span.start)..).unwrap_or("");
        let end = rest.find('\n').map_or(text.len(), |length| span.end.saturating_add(length));
        (number, start, text.get(start..end).unwrap_or(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let mut map = SourceMap::default();
        let source = map.add("dir/vm.conf".into(), "aä\n\nb ü c".as_bytes());
        let at = |start| map.position(Span { source, start, end: start });
        assert_eq!((at(0), at(1), at(3)), ((1, 1), (1, 2), (1, 3)));
        assert_eq!((at(4), at(5), at(10)), ((2, 1), (3, 1), (3, 5)));
        assert_eq!(map.folder(source), Path::new("dir"));
    }
}
