//! Switches, and interfaces of VMs.

use chumsky::prelude::*;

use super::parts::{Grammar, block, flag, keyword, newlines, punctuation, scalar, string, text, with};
use super::tree::{InterfaceOption, Spanned, SwitchBlock, SwitchOption, VmOption};
use crate::lexer::{Keyword as Key, Kind};

pub(super) fn switch<'t>() -> impl Grammar<'t, SwitchBlock> {
    let option = choice((
        flag(Key::Enable, SwitchOption::Enable),
        flag(Key::Disable, SwitchOption::Disable),
        with(Key::Group, text(), SwitchOption::Group),
        with(Key::Interface, text(), SwitchOption::Interface),
        with(Key::Locked, keyword(Key::Lladdr), |_| SwitchOption::LockedLladdr),
        with(Key::Rdomain, scalar(), SwitchOption::Rdomain),
        flag(Key::Up, SwitchOption::Up),
        flag(Key::Down, SwitchOption::Down),
    ));
    let name = keyword(Key::Switch).ignore_then(text());
    name.then(block(option)).map(|(name, options)| SwitchBlock { name, options }).boxed()
}

/// `[local] interface [name] [options]`.
pub(super) fn interface<'t>() -> impl Grammar<'t, Spanned<VmOption>> {
    let option = option().boxed();
    let in_block = option.clone().then_ignore(newlines()).repeated().at_least(1).collect::<Vec<_>>();
    let in_block =
        in_block.delimited_by(punctuation(Kind::OpenBrace).then_ignore(newlines()), punctuation(Kind::CloseBrace));
    let comma = punctuation(Kind::Comma).or_not();
    let in_line = option.clone().then(comma.ignore_then(option).repeated().collect::<Vec<_>>());
    let in_line = in_line.map(|(first, others)| std::iter::once(first).chain(others).collect::<Vec<_>>());
    let options = in_block.or(in_line).or_not().map(Option::unwrap_or_default);
    keyword(Key::Local)
        .or_not()
        .then(keyword(Key::Interface))
        .then(string().or_not())
        .then(options)
        .map(|(((local, interface), name), options)| Spanned {
            value: VmOption::Interface { is_local: local.is_some(), name, options },
            span: local.unwrap_or(interface),
        })
        .boxed()
}

fn option<'t>() -> impl Grammar<'t, Spanned<InterfaceOption>> {
    let lladdr = keyword(Key::Locked).or_not().then(keyword(Key::Lladdr)).then(string().or_not());
    let lladdr = lladdr.map(|((locked, lladdr), address)| Spanned {
        value: InterfaceOption::Lladdr { is_locked: locked.is_some(), address },
        span: locked.unwrap_or(lladdr),
    });
    choice((
        with(Key::Switch, text(), InterfaceOption::Switch),
        with(Key::Group, text(), InterfaceOption::Group),
        lladdr,
        with(Key::Rdomain, scalar(), InterfaceOption::Rdomain),
        flag(Key::Up, InterfaceOption::Up),
        flag(Key::Down, InterfaceOption::Down),
    ))
}
