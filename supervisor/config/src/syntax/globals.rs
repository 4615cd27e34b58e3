//! Statements outside of blocks, and quotas.

use chumsky::prelude::*;

use super::parts::{Grammar, block, flag, keyword, newline, number, scalar, string, with};
use super::tree::{AgentXOption, Global, QuotaBlock, QuotaOption, Spanned};
use crate::lexer::Keyword as Key;

pub(super) fn global<'t>() -> impl Grammar<'t, Spanned<Global>> {
    let inet6 =
        keyword(Key::Inet6).ignore_then(keyword(Key::Prefix).ignore_then(string()).or_not()).map(Global::LocalInet6);
    let prefix = keyword(Key::Prefix).ignore_then(string()).map(Global::LocalPrefix);
    let socket = keyword(Key::Owner).ignore_then(scalar()).map(Global::SocketOwner);
    let agentx = choice((
        keyword(Key::Context).ignore_then(string()).map(AgentXOption::Context),
        keyword(Key::Path).ignore_then(string()).map(AgentXOption::Path),
    ));
    let staggered = keyword(Key::Start)
        .ignore_then(keyword(Key::Parallel).ignore_then(number()))
        .then(keyword(Key::Delay).ignore_then(number()))
        .map(|(parallel, delay)| Global::StaggeredStart { parallel, delay });
    let visible = keyword(Key::Visible).ignore_then(choice((
        keyword(Key::All).to(Global::StatusVisibleAll),
        keyword(Key::Permitted).to(Global::StatusVisiblePermitted),
    )));
    let shutdown = choice((keyword(Key::Stop).to(Global::ShutdownStop), keyword(Key::Leave).to(Global::ShutdownLeave)));
    choice((
        with(Key::Local, inet6.or(prefix), |global| global),
        with(Key::Socket, socket, |global| global),
        with(Key::Agentx, agentx.repeated().collect(), Global::AgentX),
        with(Key::Staggered, staggered, |global| global),
        with(Key::Status, visible, |global| global),
        with(Key::Stop, keyword(Key::Timeout).ignore_then(number()), Global::StopTimeout),
        with(Key::Shutdown, shutdown, |global| global),
        with(Key::Reserve, keyword(Key::Memory).ignore_then(scalar()), Global::ReserveMemory),
    ))
    .then_ignore(newline().rewind())
    .boxed()
}

pub(super) fn quota<'t>() -> impl Grammar<'t, QuotaBlock> {
    let option = choice((
        with(Key::Vms, number(), QuotaOption::Vms),
        with(Key::Cpus, number(), QuotaOption::Cpus),
        with(Key::Memory, scalar(), QuotaOption::Memory),
        with(Key::Disks, number(), QuotaOption::Disks),
    ));
    let subject =
        choice((flag(Key::Default, None).map(|flag| flag.value), keyword(Key::Owner).ignore_then(scalar()).map(Some)));
    keyword(Key::Quota)
        .then(subject)
        .then(block(option))
        .map(|((span, owner), options)| QuotaBlock { span, owner, options })
        .boxed()
}
