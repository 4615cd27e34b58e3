//! Files to one row of tokens: definitions of macros are taken in, included files stand in the place of their `include`.
//!
//! Both are lines outside of blocks, so that braces have to be counted here already.

use std::path::{Path, PathBuf};

use super::macros::{Macro, Macros};
use super::{Found, Keyword, Kind, Lexer, Token};
use crate::diagnostic::{Diagnostic, Report, Severity};
use crate::host::Host;
use crate::limits::{MAX_ERRORS, MAX_EXPANDED_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_INCLUDE_DEPTH, MAX_TOKENS};
use crate::source::{SourceId, Span};

/// The tokens of the file at `path` and of all that it includes.
pub(crate) fn read(host: &dyn Host, path: &Path, bytes: &[u8], macros: &[Macro], report: &mut Report) -> Vec<Token> {
    let mut files = Files {
        host,
        macros: Macros::new(macros),
        report,
        tokens: Vec::new(),
        opened: 0,
        expanded_bytes: 0,
        given_up: false,
    };
    let real = host.resolve(path).unwrap_or_else(|_| path.to_owned());
    files.file(path, bytes, &mut vec![real], None);
    if !files.given_up {
        let unused: Vec<_> = files.macros.unused().collect();
        files.report.diagnostics.extend(unused);
    }
    files.tokens
}

struct Files<'a> {
    host: &'a dyn Host,
    macros: Macros,
    report: &'a mut Report,
    tokens: Vec<Token>,
    opened: usize,
    expanded_bytes: usize,
    given_up: bool,
}

impl Files<'_> {
    /// Takes in one file; `within` are the files that are being read, with this one.
    fn file(&mut self, path: &Path, bytes: &[u8], within: &mut Vec<PathBuf>, at: Option<Span>) {
        self.opened = self.opened.saturating_add(1);
        if bytes.len() > MAX_FILE_BYTES {
            let message = format!("{}: file too large", path.display());
            let error = Diagnostic { span: at, ..Diagnostic::new(Severity::Error, message) };
            return self.report.push(error.help(format!("use at most {MAX_FILE_BYTES} bytes")));
        }
        let source = self.report.sources.add(path.to_owned(), bytes);
        if let Err(error) = std::str::from_utf8(bytes) {
            let start = error.valid_up_to();
            let span = Span { source, start, end: start.saturating_add('\u{fffd}'.len_utf8()) };
            return self.report.push(Diagnostic::error(span, "syntax error: not UTF-8 text"));
        }
        let text = self.report.sources.text(source).to_owned();
        let mut lexer = Lexer::new(source, &text);
        let mut depth = 0_usize;
        let mut found = Found::default();
        while !self.given_up
            && let Some(line) = lexer.line(&mut self.macros, &mut found)
        {
            self.take(std::mem::take(&mut found));
            let starts_over = line
                .first()
                .is_some_and(|first| matches!(first.kind, Kind::Keyword(keyword) if keyword.is_top_level() && keyword != Keyword::Include));
            if starts_over {
                depth = 0;
            }
            self.line(line, &mut depth, within);
            self.check_bounds(source, &text);
        }
    }

    fn take(&mut self, found: Found) {
        self.expanded_bytes = self.expanded_bytes.saturating_add(found.expanded_bytes);
        self.report.diagnostics.extend(found.diagnostics);
        for expansion in found.expansions {
            self.report.sources.add_expansion(expansion);
        }
    }

    fn check_bounds(&mut self, source: SourceId, text: &str) {
        let problem = if self.tokens.len() > MAX_TOKENS {
            format!("more than {MAX_TOKENS} words")
        } else if self.expanded_bytes > MAX_EXPANDED_BYTES {
            format!("macros expand to more than {MAX_EXPANDED_BYTES} bytes")
        } else if self.report.diagnostics.len() > MAX_ERRORS {
            format!("more than {MAX_ERRORS} errors")
        } else {
            return;
        };
        if !self.given_up {
            self.given_up = true;
            let span = Span { source, start: text.len(), end: text.len() };
            self.report.push(Diagnostic::error(span, format!("file too large: {problem}")));
        }
    }

    fn line(&mut self, line: Vec<Token>, depth: &mut usize, within: &mut Vec<PathBuf>) {
        let is_valid = !line.iter().any(|token| token.kind == Kind::Invalid);
        match line.as_slice() {
            [first, ..] if *depth == 0 && is_valid && first.kind == Kind::Keyword(Keyword::Include) => {
                self.include(&line, within)
            }
            [_, second, ..] if *depth == 0 && is_valid && second.kind == Kind::Equals => self.define(&line),
            _ => {
                for token in &line {
                    match token.kind {
                        Kind::OpenBrace => *depth = depth.saturating_add(1),
                        Kind::CloseBrace => *depth = depth.saturating_sub(1),
                        _ => {}
                    }
                }
                self.tokens.extend(line);
            }
        }
    }

    /// `name = value`.
    fn define(&mut self, line: &[Token]) {
        let [name, equals, rest @ ..] = line else { return };
        let text = match &name.kind {
            Kind::Word(text) | Kind::Quoted(text) => text.clone(),
            other => {
                let error =
                    Diagnostic::error(name.span, format!("syntax error: {} is no name for a macro", other.describe()));
                let help = if matches!(other, Kind::Keyword(_)) {
                    "it is a keyword; choose another name"
                } else {
                    "use a word"
                };
                return self.report.push(error.help(help));
            }
        };
        if text.contains(|c: char| c.is_ascii_whitespace()) {
            return self.report.push(Diagnostic::error(name.span, "macro name cannot contain whitespace"));
        }
        match rest {
            [Token { kind: Kind::Word(value) | Kind::Quoted(value), .. }, Token { kind: Kind::Newline, .. }] => {
                self.macros.define(text, value.clone(), name.span);
            }
            [_, extra, ..] if matches!(rest.first(), Some(Token { kind: Kind::Word(_) | Kind::Quoted(_), .. })) => {
                let message = format!("syntax error: unexpected {}", extra.kind.describe());
                self.report.push(
                    Diagnostic::error(extra.span, message)
                        .label("expected end of line")
                        .help("put the whole value into quotes"),
                );
            }
            [value, ..] => {
                let message = format!("syntax error: unexpected {}", value.kind.describe());
                let help = match value.kind {
                    Kind::Newline => format!("write {text} = \"\" if it is to be empty"),
                    _ => format!("put it into quotes: {text} = \"{}\"", self.report.sources.slice(value.span)),
                };
                self.report.push(Diagnostic::error(value.span, message).label("expected a string").help(help));
            }
            [] => self.report.push(Diagnostic::error(equals.span, "syntax error")),
        }
    }

    /// `include "file"`.
    fn include(&mut self, line: &[Token], within: &mut Vec<PathBuf>) {
        let [include, arguments @ .., end] = line else { return };
        let mut name = String::new();
        for token in arguments {
            match &token.kind {
                Kind::Word(text) | Kind::Quoted(text) => name.push_str(text),
                other => {
                    let message = format!("syntax error: unexpected {}", other.describe());
                    return self.report.push(Diagnostic::error(token.span, message).label("expected a file's name"));
                }
            }
        }
        let Some(span) =
            super::first_span(arguments).map(|first| arguments.last().map_or(first, |last| first.to(last.span)))
        else {
            let error = Diagnostic::error(end.span, "syntax error: unexpected end of line");
            return self.report.push(error.label("expected a file's name").related(include.span, "for this"));
        };
        let path = self.report.sources.folder(span.source).join(&name);
        match self.open(&path, within) {
            Ok((real, bytes)) => {
                within.push(real);
                self.file(&path, &bytes, within, Some(span));
                within.pop();
            }
            Err(problem) => {
                let error = Diagnostic::error(span, format!("failed to include file {name}"));
                self.report.push(error.label(problem));
            }
        }
    }

    fn open(&self, path: &Path, within: &[PathBuf]) -> Result<(PathBuf, Vec<u8>), String> {
        if within.len() >= MAX_INCLUDE_DEPTH {
            return Err(format!("more than {MAX_INCLUDE_DEPTH} files within each other"));
        }
        if self.opened >= MAX_FILES {
            return Err(format!("more than {MAX_FILES} files"));
        }
        let real = self.host.resolve(path).map_err(|error| error.to_string())?;
        if within.contains(&real) {
            let chain: Vec<_> = within.iter().map(|path| path.display().to_string()).collect();
            return Err(format!("it includes itself: {} -> {}", chain.join(" -> "), real.display()));
        }
        let bytes = self.host.read(&real).map_err(|error| error.to_string())?;
        Ok((real, bytes))
    }
}

/// Only texts, for tests of tokens.
#[cfg(test)]
pub(super) fn kinds(text: &str, macros: &[Macro]) -> (Vec<Kind>, Vec<String>) {
    let mut report = Report::default();
    let host = crate::host::FakeHost::default();
    let tokens = read(&host, Path::new("vm.conf"), text.as_bytes(), macros, &mut report);
    (tokens.into_iter().map(|token| token.kind).collect(), report.lines().collect())
}
