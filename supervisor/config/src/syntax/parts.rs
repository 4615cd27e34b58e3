//! Parsers of what statements are made of, and the ways back after an error.

use chumsky::input::InputRef;
use chumsky::prelude::*;

use super::tree::{Number, Scalar, Spanned, Text};
use crate::lexer::{Keyword, Kind, Token};
use crate::source::Span;

pub(super) type Extra<'t> = extra::Err<Rich<'t, Token>>;

/// A parser of tokens.
pub(super) trait Grammar<'t, O>: Parser<'t, &'t [Token], O, Extra<'t>> + Clone + 't {}

impl<'t, O, P: Parser<'t, &'t [Token], O, Extra<'t>> + Clone + 't> Grammar<'t, O> for P {}

pub(super) fn keyword<'t>(keyword: Keyword) -> impl Grammar<'t, Span> {
    select_ref! { Token { kind: Kind::Keyword(found), span } if *found == keyword => *span }.labelled(keyword.as_str())
}

pub(super) fn punctuation<'t>(kind: Kind) -> impl Grammar<'t, ()> {
    let label = kind.describe();
    any().filter(move |token: &Token| token.kind == kind).ignored().labelled(label)
}

pub(super) fn newline<'t>() -> impl Grammar<'t, ()> {
    punctuation(Kind::Newline)
}

pub(super) fn newlines<'t>() -> impl Grammar<'t, ()> {
    newline().repeated()
}

/// One string.
pub(super) fn string<'t>() -> impl Grammar<'t, Text> {
    select_ref! { Token { kind: Kind::Word(text) | Kind::Quoted(text), span } => Spanned { value: text.clone(), span: *span } }
        .labelled("a string")
}

/// Adjacent strings, which are one.
pub(super) fn text<'t>() -> impl Grammar<'t, Text> {
    string().foldl(string().repeated(), |first, next| Spanned {
        value: first.value + &next.value,
        span: first.span.to(next.span),
    })
}

pub(super) fn number<'t>() -> impl Grammar<'t, Number> {
    select_ref! { Token { kind: Kind::Number(number), span } => Spanned { value: *number, span: *span } }
        .labelled("a number")
}

/// A number or a string.
pub(super) fn scalar<'t>() -> impl Grammar<'t, Spanned<Scalar>> {
    let number = number().map(|number| Spanned { value: Scalar::Number(number.value), span: number.span });
    let text = string().map(|text| Spanned { value: Scalar::Text(text.value), span: text.span });
    number.or(text)
}

/// `word` alone, which means `value`.
pub(super) fn flag<'t, O: Clone + 't>(word: Keyword, value: O) -> impl Grammar<'t, Spanned<O>> {
    keyword(word).map(move |span| Spanned { value: value.clone(), span })
}

/// `word` and its argument.
pub(super) fn with<'t, A: 't, O: 't>(
    word: Keyword,
    argument: impl Grammar<'t, A>,
    value: impl Fn(A) -> O + Clone + 't,
) -> impl Grammar<'t, Spanned<O>> {
    keyword(word).then(argument).map(move |(span, argument)| Spanned { value: value(argument), span })
}

/// `{`, options on lines, `}`. Behind the first option the end of the line may be missing. A line with an error is left out.
pub(super) fn block<'t, O: 't>(option: impl Grammar<'t, O>) -> impl Grammar<'t, Vec<O>> {
    let option = option.map(Some);
    let first = option.clone().recover_with(via_parser(skip_line().map(|()| None))).then_ignore(newlines());
    let whole_line = option.then_ignore(newline().rewind()).recover_with(via_parser(skip_line().map(|()| None)));
    let end_of_line = newline().repeated().at_least(1).or(punctuation(Kind::CloseBrace).rewind());
    let others = whole_line.then_ignore(end_of_line).repeated().collect::<Vec<_>>();
    let end = newline().rewind().recover_with(via_parser(skip_line()));
    let close = punctuation(Kind::CloseBrace).then_ignore(end).recover_with(via_parser(missing_brace()));
    punctuation(Kind::OpenBrace)
        .ignore_then(newlines())
        .ignore_then(first)
        .then(others)
        .then_ignore(close)
        .map(|(first, others)| std::iter::once(first).chain(others).flatten().collect())
        .boxed()
}

/// The rest of a line in a block, with whole blocks in it: up to the end of the line or a brace that closes the block around. Not nothing.
pub(super) fn skip_line<'t>() -> impl Grammar<'t, ()> {
    skip(|first| match first {
        Kind::Keyword(keyword) => !keyword.is_top_level(),
        Kind::CloseBrace | Kind::Newline => false,
        _ => true,
    })
}

/// The same outside of blocks, where any token may be skipped.
pub(super) fn skip_statement<'t>() -> impl Grammar<'t, ()> {
    skip(|_| true)
}

fn skip<'t>(may_start: impl Fn(&Kind) -> bool + Clone + 't) -> impl Grammar<'t, ()> {
    custom(move |input: &mut InputRef<'t, '_, &'t [Token], Extra<'t>>| {
        let mut depth = 0_usize;
        let mut is_first = true;
        let mut starts_line = false;
        loop {
            let before = input.save();
            let start = input.cursor();
            let Some(token) = input.next_ref() else {
                return if is_first { Err(Rich::custom(input.span_since(&start), "end")) } else { Ok(()) };
            };
            let ends = match &token.kind {
                kind if is_first => !may_start(kind),
                Kind::Newline | Kind::CloseBrace => depth == 0,
                Kind::Keyword(keyword) => starts_line && keyword.is_top_level(),
                _ => false,
            };
            if ends {
                let span = input.span_since(&start);
                input.rewind(before);
                return if is_first { Err(Rich::custom(span, "end")) } else { Ok(()) };
            }
            match &token.kind {
                Kind::OpenBrace => depth = depth.saturating_add(1),
                Kind::CloseBrace => depth = depth.saturating_sub(1),
                _ => {}
            }
            starts_line = token.kind == Kind::Newline;
            is_first = false;
        }
    })
}

/// Where a block ends that nobody closed: before a statement that is in no block, and at the end.
fn missing_brace<'t>() -> impl Grammar<'t, ()> {
    let statement =
        any().filter(|token: &Token| matches!(token.kind, Kind::Keyword(keyword) if keyword.is_top_level()));
    statement.ignored().rewind().or(end())
}
