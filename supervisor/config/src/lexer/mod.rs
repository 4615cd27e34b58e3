//! Texts to tokens: words, strings, numbers, macros, inclusions.
//!
//! The rules are vmd's to the letter, and not those of other languages. Words are keywords only if they are not quoted; a word goes on over nearly all
//! punctuation (`$` and quotes too); a number counts as one only before white space and a few characters; backslashes are for
//! quotes, blanks and line ends alone. [`files`] puts the tokens of all files in a row.

mod files;
mod macros;
mod reader;
mod token;

pub(crate) use files::read;
pub use macros::{InvalidMacro, Macro};
pub(crate) use token::{Keyword, Kind, Token};

use self::macros::Macros;
use self::reader::{Cursor, Reader, Step};
use crate::diagnostic::Diagnostic;
use crate::limits::MAX_TOKEN_BYTES;
use crate::source::{Expansion, SourceId, Span};

/// Tokens of one file.
#[derive(Debug)]
struct Lexer<'t> {
    reader: Reader<'t>,
    ended: bool,
}

impl<'t> Lexer<'t> {
    fn new(source: SourceId, text: &'t str) -> Self {
        Self { reader: Reader::new(source, text), ended: false }
    }

    /// The next line: its tokens, the last of which is the line's end. Nothing after the last one.
    fn line(&mut self, macros: &mut Macros, found: &mut Found) -> Option<Vec<Token>> {
        let mut line = Vec::new();
        while !self.ended {
            let token = match self.token(macros, found) {
                Ok(token) => token,
                Err(diagnostic) => {
                    let start = self.reader.cursor;
                    self.skip_line();
                    found.diagnostics.push(*diagnostic);
                    Token { kind: Kind::Invalid, span: self.reader.span(start, self.reader.cursor) }
                }
            };
            let is_last = token.kind == Kind::Newline;
            line.push(token);
            if is_last {
                return Some(line);
            }
        }
        None
    }

    /// Goes on before the end of the line.
    fn skip_line(&mut self) {
        loop {
            let step = self.reader.unquoted(self.reader.cursor);
            if matches!(step.character, None | Some('\n')) {
                return;
            }
            self.reader.cursor = step.next;
        }
    }

    fn token(&mut self, macros: &mut Macros, found: &mut Found) -> Result<Token, Box<Diagnostic>> {
        loop {
            let step = self.skip_blanks();
            self.reader.cursor = step.next;
            let Some(character) = step.character else {
                self.ended = true;
                return Ok(Token { kind: Kind::Newline, span: self.reader.end() });
            };
            let kind = match character {
                '$' if !self.reader.is_in_value(step.at) => {
                    self.expand(step.at, macros, found)?;
                    continue;
                }
                '\n' => Kind::Newline,
                '"' | '\'' => Kind::Quoted(self.quoted(step.at, character)?),
                '{' => Kind::OpenBrace,
                '}' => Kind::CloseBrace,
                ',' => Kind::Comma,
                '=' => Kind::Equals,
                '-' | '0'..='9' => match self.number(step)? {
                    Some(number) => Kind::Number(number),
                    None if character == '-' => Kind::Other('-'),
                    None => self.word(step)?,
                },
                _ if starts_word(character) => self.word(step)?,
                _ => Kind::Other(character),
            };
            return Ok(Token { kind, span: self.reader.span(step.at, self.reader.cursor) });
        }
    }

    /// The first character that is neither blank nor in a comment.
    fn skip_blanks(&self) -> Step {
        let mut step = self.reader.unquoted(self.reader.cursor);
        while matches!(step.character, Some(' ' | '\t')) {
            step = self.reader.unquoted(step.next);
        }
        if step.character == Some('#') {
            while !matches!(step.character, None | Some('\n')) {
                step = self.reader.unquoted(step.next);
            }
        }
        step
    }

    fn expand(&mut self, start: Cursor, macros: &mut Macros, found: &mut Found) -> Result<(), Box<Diagnostic>> {
        let mut name = String::new();
        loop {
            let step = self.reader.unquoted(self.reader.cursor);
            match step.character {
                Some(character) if character.is_ascii_alphanumeric() || character == '_' => name.push(character),
                _ => break,
            }
            self.reader.cursor = step.next;
            self.check_length(start, name.len())?;
        }
        let span = self.reader.span(start, self.reader.cursor);
        let value = macros.take(&name, span)?.to_owned();
        found.expanded_bytes = found.expanded_bytes.saturating_add(value.len());
        let at = self.reader.splice(start, value.clone());
        found.expansions.push(Expansion { at, name, value });
        Ok(())
    }

    fn quoted(&mut self, start: Cursor, quote: char) -> Result<String, Box<Diagnostic>> {
        let mut text = String::new();
        loop {
            let step = self.reader.raw(self.reader.cursor);
            let Some(character) = step.character else {
                let open = self.reader.span(start, self.reader.raw(start).next);
                self.reader.cursor = step.next;
                let error =
                    Diagnostic::error(open, "reached end of file while parsing quoted string").label("starts here");
                return Err(Box::new(error.help(format!("close it with {quote}"))));
            };
            self.reader.cursor = step.next;
            match character {
                '\n' => continue,
                '\0' => {
                    let span = self.reader.span(step.at, step.next);
                    return Err(Box::new(Diagnostic::error(span, "syntax error: null character in a string")));
                }
                '\\' => {
                    let escaped = self.reader.raw(step.next);
                    match escaped.character {
                        Some('\n') => {
                            self.reader.cursor = escaped.next;
                            continue;
                        }
                        Some(next) if next == quote || next == ' ' || next == '\t' => {
                            self.reader.cursor = escaped.next;
                            text.push(next);
                        }
                        _ => text.push('\\'),
                    }
                }
                _ if character == quote => return Ok(text),
                _ => text.push(character),
            }
            self.check_length(start, text.len())?;
        }
    }

    /// A number, if that is what it is; the cursor stays behind its first character if not.
    fn number(&mut self, first: Step) -> Result<Option<i64>, Box<Diagnostic>> {
        let mut digits: String = first.character.into_iter().collect();
        let mut step = self.reader.unquoted(first.next);
        while let Some(digit) = step.character.filter(char::is_ascii_digit) {
            digits.push(digit);
            self.check_length(first.at, digits.len())?;
            step = self.reader.unquoted(step.next);
        }
        let ends =
            step.character.is_none_or(|c| c.is_ascii_whitespace() || matches!(c, '\x0b' | ')' | ',' | '/' | '}' | '='));
        if !ends || digits == "-" {
            return Ok(None);
        }
        self.reader.cursor = step.at;
        match digits.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                let problem = if digits.starts_with('-') { "too small" } else { "too large" };
                let span = self.reader.span(first.at, self.reader.cursor);
                Err(Box::new(Diagnostic::error(span, format!("\"{digits}\" invalid number: {problem}"))))
            }
        }
    }

    fn word(&mut self, first: Step) -> Result<Kind, Box<Diagnostic>> {
        let mut word: String = first.character.into_iter().collect();
        let mut step = self.reader.unquoted(first.next);
        while let Some(character) = step.character.filter(|character| continues_word(*character)) {
            word.push(character);
            self.reader.cursor = step.next;
            self.check_length(first.at, word.len())?;
            step = self.reader.unquoted(step.next);
        }
        self.reader.cursor = if word.len() == 1 { first.next } else { self.reader.cursor };
        Ok(Keyword::from_word(&word).map_or(Kind::Word(word), Kind::Keyword))
    }

    fn check_length(&self, start: Cursor, length: usize) -> Result<(), Box<Diagnostic>> {
        if length < MAX_TOKEN_BYTES {
            return Ok(());
        }
        let span = self.reader.span(start, self.reader.raw(start).next);
        Err(Box::new(Diagnostic::error(span, "string too long").help(format!("use less than {MAX_TOKEN_BYTES} bytes"))))
    }
}

fn starts_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, ':' | '_' | '/')
}

fn continues_word(character: char) -> bool {
    let ends = matches!(character, '(' | ')' | '{' | '}' | '!' | '=' | '#' | ',');
    character.is_ascii_alphanumeric() || (character.is_ascii_punctuation() && !ends)
}

/// What is found besides tokens.
#[derive(Debug, Default)]
struct Found {
    diagnostics: Vec<Diagnostic>,
    expansions: Vec<Expansion>,
    expanded_bytes: usize,
}

/// What a token is called in messages.
impl Kind {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Keyword(keyword) => format!("'{}'", keyword.as_str()),
            Self::Word(word) => format!("'{}'", word.escape_debug()),
            Self::Quoted(text) => format!("\"{}\"", text.escape_debug()),
            Self::Number(number) => format!("number {number}"),
            Self::OpenBrace => "'{'".to_owned(),
            Self::CloseBrace => "'}'".to_owned(),
            Self::Comma => "','".to_owned(),
            Self::Equals => "'='".to_owned(),
            Self::Newline => "end of line".to_owned(),
            Self::Other(character) => format!("{character:?}"),
            Self::Invalid => "error".to_owned(),
        }
    }
}

/// The place of the first token.
pub(crate) fn first_span(tokens: &[Token]) -> Option<Span> {
    tokens.first().map(|token| token.span)
}

#[cfg(test)]
mod tests;
