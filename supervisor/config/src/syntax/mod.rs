//! Tokens to a tree. The grammar is that of vmd's vm.conf(5), and what Stockade adds; see the [crate](crate).
//!
//! A line that is wrong is left out of the tree, and the next one is looked at, so that several errors are found in one run.

mod error;
mod globals;
mod network;
mod parts;
pub(crate) mod tree;
mod vm;

use chumsky::prelude::*;

use self::parts::{Grammar, newline, skip_statement};
use self::tree::Statement;
use crate::diagnostic::Report;
use crate::lexer::Token;
use crate::limits::MAX_ERRORS;

/// The statements in `tokens`; what is no statement goes to `report`.
pub(crate) fn parse(tokens: &[Token], report: &mut Report) -> Vec<Statement> {
    let (tree, errors) = file().parse(tokens).into_output_errors();
    for error in errors.into_iter().take(MAX_ERRORS) {
        report.diagnostics.extend(error::diagnostic(&error, tokens));
    }
    tree.unwrap_or_default()
}

fn file<'t>() -> impl Grammar<'t, Vec<Statement>> {
    let statement = choice((
        globals::global().map(Statement::Global),
        network::switch().map(Statement::Switch),
        vm::vm().map(Statement::Vm),
        globals::quota().map(Statement::Quota),
    ));
    let statement = statement.map(Some).recover_with(via_parser(skip_statement().map(|()| None)));
    let line = newline().map(|()| None).or(statement);
    line.repeated().collect::<Vec<_>>().then_ignore(end()).map(|lines| lines.into_iter().flatten().collect())
}
