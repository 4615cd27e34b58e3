//! VMs.

use chumsky::prelude::*;

use super::network::interface;
use super::parts::{Grammar, block, flag, keyword, newline, newlines, number, punctuation, scalar, text, with};
use super::tree::{AllowOption, DiskOption, LimitOption, Spanned, VmBlock, VmOption};
use crate::lexer::{Keyword as Key, Kind};
use crate::model::Override;

pub(super) fn vm<'t>() -> impl Grammar<'t, VmBlock> {
    keyword(Key::Vm)
        .ignore_then(text())
        .then(keyword(Key::Instance).ignore_then(text()).or_not())
        .then(block(option()))
        .map(|((name, instance), options)| VmBlock { name, instance, options })
        .boxed()
}

fn option<'t>() -> impl Grammar<'t, Spanned<VmOption>> {
    let machine = choice((
        flag(Key::Enable, VmOption::Enable),
        flag(Key::Disable, VmOption::Disable),
        with(Key::Cpus, number(), VmOption::Cpus),
        with(Key::Memory, scalar(), VmOption::Memory),
        boot(),
        with(Key::Initramfs, text(), VmOption::Initramfs),
        with(Key::Cmdline, text(), VmOption::CommandLine),
        disk(),
        with(Key::Cdrom, text(), VmOption::Cdrom),
    ));
    let devices = choice((
        with(Key::Interfaces, number(), VmOption::Interfaces),
        interface(),
        with(Key::Vsock, keyword(Key::Enable).to(None).or(number().map(Some)), |id| match id {
            None => VmOption::VsockEnable,
            Some(id) => VmOption::Vsock(id),
        }),
        flag(Key::Sev, VmOption::Sev),
        flag(Key::Seves, VmOption::Seves),
    ));
    let policy = choice((
        with(Key::Owner, scalar(), VmOption::Owner),
        with(Key::Allow, keyword(Key::Instance).ignore_then(allow()), VmOption::AllowInstance),
        with(Key::Limit, limits(), VmOption::Limit),
        with(Key::Stop, keyword(Key::Timeout).ignore_then(number()), VmOption::StopTimeout),
    ));
    machine.or(devices).or(policy).boxed()
}

fn boot<'t>() -> impl Grammar<'t, Spanned<VmOption>> {
    let device = keyword(Key::Device).ignore_then(choice((
        keyword(Key::Cdrom).to(VmOption::BootCdrom),
        keyword(Key::Disk).to(VmOption::BootDisk),
        keyword(Key::Net).to(VmOption::BootNet),
    )));
    let what = choice((text().map(VmOption::Boot), keyword(Key::Default).to(VmOption::BootDefault), device));
    with(Key::Boot, what, |option| option)
}

fn disk<'t>() -> impl Grammar<'t, Spanned<VmOption>> {
    let option = choice((
        with(Key::Format, text(), DiskOption::Format),
        flag(Key::Readonly, DiskOption::ReadOnly),
        with(Key::Rate, scalar(), DiskOption::Rate),
        with(Key::Ops, number(), DiskOption::Ops),
    ));
    let arguments = text().then(option.repeated().collect::<Vec<_>>());
    with(Key::Disk, arguments, |(path, options)| VmOption::Disk { path, options })
}

/// One option, or a block of them with commas or line ends between.
fn allow<'t>() -> impl Grammar<'t, Vec<Spanned<AllowOption>>> {
    let may = |word, what| flag(word, AllowOption::Override(what));
    let option = choice((
        may(Key::Boot, Override::Boot),
        may(Key::Cpus, Override::Cpus),
        may(Key::Memory, Override::Memory),
        may(Key::Interface, Override::Interface),
        may(Key::Disk, Override::Disk),
        may(Key::Cdrom, Override::Cdrom),
        may(Key::Vsock, Override::Vsock),
        may(Key::Instance, Override::Instance),
        with(Key::Owner, scalar(), AllowOption::Owner),
    ))
    .boxed();
    let separator = punctuation(Kind::Comma).ignored().then_ignore(newlines()).or(newline().repeated().at_least(1));
    one_or_block(option.clone(), option.separated_by(separator).at_least(1).collect::<Vec<_>>().then_ignore(newlines()))
}

/// One option, or a block of them on lines.
fn limits<'t>() -> impl Grammar<'t, Vec<Spanned<LimitOption>>> {
    let option = choice((
        with(Key::Cpu, number(), LimitOption::Cpu),
        with(Key::Memory, scalar(), LimitOption::Memory),
        with(Key::Processes, number(), LimitOption::Processes),
    ))
    .boxed();
    let separator = newline().repeated().at_least(1);
    one_or_block(option.clone(), option.separated_by(separator).at_least(1).collect::<Vec<_>>().then_ignore(newlines()))
}

fn one_or_block<'t, O: 't>(one: impl Grammar<'t, O>, several: impl Grammar<'t, Vec<O>>) -> impl Grammar<'t, Vec<O>> {
    let open = punctuation(Kind::OpenBrace).then_ignore(newlines());
    several.delimited_by(open, punctuation(Kind::CloseBrace)).or(one.map(|one| vec![one]))
}
