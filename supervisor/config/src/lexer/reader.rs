//! Characters of one file, with macros spliced in.
//!
//! The value of a macro is text that stands in the place of `$name`: a word may start in it and go on behind it.
//! At most one value is being read at a time, because a `$` in a value means nothing.

use crate::source::{SourceId, Span};

/// A position: in the file, and in the macro's value that is read before the file goes on there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    file: usize,
    /// Next byte of the value; [`usize::MAX`] outside of one.
    value: usize,
}

/// A character, where it is, and what comes after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// [`None`] at the end of the file.
    pub(super) character: Option<char>,
    /// Where the character is.
    pub(super) at: Cursor,
    /// What comes next.
    pub(super) next: Cursor,
}

/// Reads one file.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    text: &'t str,
    source: SourceId,
    pub(super) cursor: Cursor,
    value: String,
    /// Where `$name` is, for the value.
    used_at: (usize, usize),
}

const OUTSIDE: usize = usize::MAX;

impl<'t> Reader<'t> {
    pub(super) fn new(source: SourceId, text: &'t str) -> Self {
        Self { text, source, cursor: Cursor { file: 0, value: OUTSIDE }, value: String::new(), used_at: (0, 0) }
    }

    /// The next character, whatever it is.
    pub(super) fn raw(&self, at: Cursor) -> Step {
        if let Some(character) = self.value.get(at.value..).and_then(|rest| rest.chars().next()) {
            let next = Cursor { value: at.value.saturating_add(character.len_utf8()), ..at };
            return Step { character: Some(character), at, next };
        }
        let at = Cursor { value: OUTSIDE, ..at };
        let character = self.text.get(at.file..).and_then(|rest| rest.chars().next());
        let next = Cursor { file: at.file.saturating_add(character.map_or(0, char::len_utf8)), ..at };
        Step { character, at, next }
    }

    /// The next character outside of quotes: a backslash and the end of a line are nothing, another backslash is dropped.
    pub(super) fn unquoted(&self, mut at: Cursor) -> Step {
        loop {
            let step = self.raw(at);
            if step.character != Some('\\') {
                return step;
            }
            let escaped = self.raw(step.next);
            if escaped.character != Some('\n') {
                return Step { at: step.at, ..escaped };
            }
            at = escaped.next;
        }
    }

    /// Whether `at` is in the value of a macro.
    pub(super) fn is_in_value(&self, at: Cursor) -> bool {
        at.value < self.value.len()
    }

    /// Continues with `value`, and after it where the cursor is; `start` is where the macro's use starts.
    pub(super) fn splice(&mut self, start: Cursor, value: String) -> Span {
        self.used_at = (start.file, self.cursor.file);
        self.value = value;
        self.cursor.value = 0;
        Span { source: self.source, start: start.file, end: self.cursor.file }
    }

    /// From `start` to before `end`, in the file.
    pub(super) fn span(&self, start: Cursor, end: Cursor) -> Span {
        let (used_start, used_end) = self.used_at;
        let first = if self.is_in_value(start) { used_start } else { start.file };
        let last = if self.is_in_value(start) { end.file.max(used_end) } else { end.file };
        Span { source: self.source, start: first, end: last.max(first) }
    }

    /// The end of the file.
    pub(super) fn end(&self) -> Span {
        Span { source: self.source, start: self.text.len(), end: self.text.len() }
    }
}
