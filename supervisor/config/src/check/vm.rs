//! VMs: their options, one by one, and then what vmd checks when it registers them.

use std::collections::HashMap;

use super::values::Purpose;
use super::{Checker, Mode, Named};
use crate::diagnostic::{Diagnostic, closest};
use crate::instance::{InstanceError, Overrides, Requester, instantiate};
use crate::model::{
    Boot, BootDevice, Definition, Disk, DiskAccess, DiskFormat, DiskRate, EncryptedMemory, Interface, StartPolicy, Vm,
    VmName, Vsock,
};
use crate::source::Span;
use crate::syntax::tree::{AllowOption, DiskOption, LimitOption, Spanned, Text, VmBlock, VmOption};

/// A VM while its options are read.
#[derive(Default)]
struct Draft {
    start: StartPolicy,
    overrides: Overrides,
    initramfs: Option<(std::path::PathBuf, Span)>,
    interfaces: Option<u32>,
    /// Where options are that may be there once.
    once: HashMap<&'static str, Span>,
    /// Identities of disks, and where they are.
    disks: HashMap<(u64, u64), Span>,
    addresses: Vec<Span>,
}

impl Checker<'_> {
    pub(super) fn vm(&mut self, block: &VmBlock) {
        let name = block.instance.as_ref().unwrap_or(&block.name);
        let Some(vm_name) = self.vm_name(name) else { return };
        let is_new = self.name(Named::Vm(name.value.clone()), name.span);
        let errors = self.report.errors();
        let mut draft = Draft::default();
        for option in &block.options {
            self.vm_option(option, &mut draft);
        }
        self.complete(&mut draft);
        let template = block.instance.as_ref().map(|_| &block.name);
        if !is_new || self.is_broken || self.report.errors() > errors {
            return;
        }
        let Some(definition) = self.definition(name, template, &draft) else { return };
        self.unique(&vm_name, &definition, &draft);
        let template = template.and_then(|template| template.value.parse().ok());
        let vm = Vm { name: vm_name, start: draft.start, template, definition };
        match (self.mode, self.config.vm(vm.name.as_str())) {
            (Mode::Beside(_), Some(old)) if *old == vm => {}
            (Mode::Beside(_), Some(_)) => self.differs(format!("vm \"{}\"", vm.name), name.span),
            _ => self.config.vms.push(vm),
        }
    }

    fn vm_name(&mut self, name: &Text) -> Option<VmName> {
        match name.value.parse::<VmName>() {
            Ok(name) => Some(name),
            Err(error) => {
                self.report.push(Diagnostic::error(name.span, error.to_string()).help(error.remedy()));
                None
            }
        }
    }

    fn vm_option(&mut self, option: &Spanned<VmOption>, draft: &mut Draft) {
        let span = option.span;
        match &option.value {
            VmOption::Enable => draft.start = StartPolicy::Enabled,
            VmOption::Disable => draft.start = StartPolicy::Disabled,
            VmOption::Cpus(number) => {
                self.once(draft, "cpus", span);
                let cpus = self.count(number, 1..=u32::from(Definition::MAX_CPUS), "invalid number of cpus");
                draft.overrides.cpus = cpus.and_then(|cpus| u8::try_from(cpus).ok());
            }
            VmOption::Memory(size) => {
                self.once(draft, "memory", span);
                draft.overrides.memory = self.memory(size);
            }
            VmOption::Boot(path) => {
                self.once(draft, "kernel", span);
                let kernel = self.path(path, Purpose::Kernel);
                draft.overrides.boot = kernel.map(|(path, _)| Boot::Kernel { path, initramfs: None });
            }
            VmOption::BootDefault => {
                self.once(draft, "kernel", span);
                draft.overrides.boot = Some(Boot::Default);
            }
            VmOption::BootCdrom => draft.overrides.boot_device = Some(BootDevice::Cdrom),
            VmOption::BootDisk => draft.overrides.boot_device = Some(BootDevice::Disk),
            VmOption::BootNet => draft.overrides.boot_device = Some(BootDevice::Net),
            VmOption::Initramfs(path) => {
                self.once(draft, "initramfs", span);
                draft.initramfs = self.path(path, Purpose::Initramfs).map(|(path, _)| (path, span));
            }
            VmOption::CommandLine(text) => {
                self.once(draft, "cmdline", span);
                draft.overrides.command_line = Some(text.value.clone());
            }
            VmOption::Disk { path, options } => self.disk(path, options, draft),
            VmOption::Cdrom(path) => {
                self.once(draft, "cdrom", span);
                draft.overrides.cdrom = self.path(path, Purpose::Cdrom).map(|(path, _)| path);
            }
            _ => self.vm_device_or_policy(option, draft),
        }
    }

    fn vm_device_or_policy(&mut self, option: &Spanned<VmOption>, draft: &mut Draft) {
        let span = option.span;
        match &option.value {
            VmOption::Interfaces(number) => {
                self.once(draft, "interfaces", span);
                let most = u32::try_from(Definition::MAX_INTERFACES).unwrap_or(u32::MAX);
                draft.interfaces = self.count(number, 0..=most, "too many interfaces");
            }
            VmOption::Interface { is_local, name, options } => {
                let interface = self.interface(*is_local, name.as_ref(), options);
                draft.overrides.interfaces.push(interface);
                draft.addresses.push(span);
                let count = draft.overrides.interfaces.len();
                if count > Definition::MAX_INTERFACES {
                    let error = Diagnostic::error(span, format!("too many interfaces: {count}"));
                    self.report.push(error.help(format!("use at most {}", Definition::MAX_INTERFACES)));
                }
            }
            VmOption::VsockEnable => draft.overrides.vsock = Some(Vsock::Automatic),
            VmOption::Vsock(number) => {
                let id = self.count(number, 3..=u32::MAX.saturating_sub(1), "invalid vsock context id");
                draft.overrides.vsock = id.map(Vsock::ContextId);
            }
            VmOption::Sev => draft.overrides.encrypted_memory = Some(EncryptedMemory::Sev),
            VmOption::Seves => draft.overrides.encrypted_memory = Some(EncryptedMemory::SevEs),
            VmOption::Owner(owner) => {
                if let Some(owner) = self.owner(owner) {
                    draft.overrides.uid = Some(owner.uid);
                    draft.overrides.gid = owner.gid;
                }
            }
            VmOption::AllowInstance(options) => {
                for option in options {
                    let policy = draft.overrides.instances.get_or_insert_default();
                    match &option.value {
                        AllowOption::Override(what) => _ = policy.overrides.insert(*what),
                        AllowOption::Owner(owner) => policy.owner = self.owner(owner),
                    }
                }
            }
            VmOption::Limit(options) => options.iter().for_each(|option| self.limit(option, draft)),
            VmOption::StopTimeout(seconds) => {
                self.once(draft, "stop timeout", span);
                draft.overrides.stop_timeout_seconds =
                    self.count(seconds, 0..=Definition::MAX_STOP_TIMEOUT_SECONDS, "invalid stop timeout");
            }
            _ => {}
        }
    }

    fn once(&mut self, draft: &mut Draft, what: &'static str, span: Span) {
        match draft.once.get(what) {
            Some(first) => {
                let error = Diagnostic::error(span, format!("{what} specified more than once"));
                self.report.push(error.related(*first, "first"));
            }
            None => _ = draft.once.insert(what, span),
        }
    }

    fn disk(&mut self, path: &Text, options: &[Spanned<DiskOption>], draft: &mut Draft) {
        let mut format = None;
        let mut access = DiskAccess::ReadWrite;
        let mut rate = DiskRate::default();
        for option in options {
            match &option.value {
                DiskOption::Format(text) => format = self.format(text),
                DiskOption::ReadOnly => access = DiskAccess::ReadOnly,
                DiskOption::Rate(size) => rate.bytes_per_second = self.rate(size),
                DiskOption::Ops(number) => {
                    rate.operations_per_second = self.count(number, 1..=u32::MAX, "invalid number of operations")
                }
            }
        }
        if draft.overrides.disks.len() >= Definition::MAX_DISKS {
            let error = Diagnostic::error(path.span, "too many disks");
            return self.report.push(
                error
                    .label(format!("failed to parse disks: {}", path.value))
                    .help(format!("use at most {}", Definition::MAX_DISKS)),
            );
        }
        let Some((real, examined)) = self.path(path, Purpose::Disk) else { return };
        if let Some(first) = draft.disks.insert(examined.identity, path.span) {
            let error = Diagnostic::error(path.span, format!("disk {} is there twice", real.display()));
            return self.report.push(error.related(first, "first"));
        }
        let found = if examined.magic == *b"QFI\xfb" { DiskFormat::Qcow2 } else { DiskFormat::Raw };
        draft.overrides.disks.push(Disk { path: real, format: format.unwrap_or(found), access, rate });
    }

    fn format(&mut self, text: &Text) -> Option<DiskFormat> {
        if text.value.eq_ignore_ascii_case("raw") {
            return Some(DiskFormat::Raw);
        }
        if text.value.eq_ignore_ascii_case("qcow2") {
            return Some(DiskFormat::Qcow2);
        }
        let error = Diagnostic::error(text.span, format!("unrecognized disk format {}", text.value));
        self.report.push(error.help("use \"raw\" or \"qcow2\", or leave it out"));
        None
    }

    fn limit(&mut self, option: &Spanned<LimitOption>, draft: &mut Draft) {
        match &option.value {
            LimitOption::Cpu(number) => {
                draft.overrides.limits.cpu_percent = self.count(number, 1..=1_000_000, "invalid limit of cpu")
            }
            LimitOption::Memory(size) => draft.overrides.limits.overhead = self.memory(size),
            LimitOption::Processes(number) => {
                draft.overrides.limits.processes = self.count(number, 1..=1_000_000, "invalid limit of processes");
            }
        }
    }

    /// Puts together what several options say.
    fn complete(&mut self, draft: &mut Draft) {
        let count = draft.interfaces.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        if draft.overrides.interfaces.len() < count {
            draft.overrides.interfaces.resize_with(count, Interface::default);
        }
        if let Some((file, span)) = draft.initramfs.take() {
            match &mut draft.overrides.boot {
                Some(Boot::Kernel { initramfs, .. }) => *initramfs = Some(file),
                // Its own error has been reported if there is a kernel that is not to be found.
                None if draft.once.contains_key("kernel") => {}
                _ => self.report.push(Diagnostic::error(span, "initramfs needs a kernel").help("add boot \"path\"")),
            }
        }
    }

    /// The finished definition.
    fn definition(&mut self, name: &Text, template: Option<&Text>, draft: &Draft) -> Option<Definition> {
        let failed = |reason: String| Diagnostic::error(name.span, format!("vm \"{}\" failed: {reason}", name.value));
        let Some(template) = template else {
            let made = draft.overrides.clone().into_definition();
            return made.map_err(|error| self.report.push(failed(error.to_string()))).ok();
        };
        let Some(vm) = self.config.vm(&template.value) else {
            // A template that is there has an error of its own.
            if !self.names.contains_key(&Named::Vm(template.value.clone())) || template.value == name.value {
                let known = self.config.vms.iter().map(|vm| vm.name.as_str());
                let help = match closest(&template.value, known) {
                    Some(similar) => format!("did you mean \"{similar}\"?"),
                    None => format!("define vm \"{}\" above", template.value),
                };
                let error = Diagnostic::error(
                    template.span,
                    format!("vm \"{}\" failed: invalid template \"{}\"", name.value, template.value),
                );
                self.report.push(error.help(help));
            }
            return None;
        };
        let shared =
            vm.definition.disks.iter().filter_map(|disk| Some((disk, self.host.examine(&disk.path).ok()?.identity)));
        let same = shared.filter_map(|(disk, identity)| Some((disk, *draft.disks.get(&identity)?))).next();
        let made = match same {
            Some((disk, _)) => Err(InstanceError::DiskInUse(disk.path.clone())),
            None => instantiate(&vm.definition, &draft.overrides, Requester::ROOT),
        };
        let span = same.map_or(name.span, |(_, span)| span);
        made.map_err(|error| self.report.push(Diagnostic { span: Some(span), ..failed(error.to_string()) })).ok()
    }

    /// Checks that addresses and taps are no other VM's.
    fn unique(&mut self, name: &VmName, definition: &Definition, draft: &Draft) {
        for (index, interface) in definition.interfaces.iter().enumerate() {
            let Some(&span) = draft.addresses.get(index) else { continue };
            let mine = (name.to_string(), Some(span));
            if let Some(address) = interface.lladdr {
                let other = self.lladdrs.insert(address, mine.clone());
                self.taken(other, name, span, &format!("duplicate lladdr {address}"));
            }
            if let Some(tap) = &interface.tap {
                let other = self.taps.insert(tap.clone(), mine);
                self.taken(other, name, span, &format!("duplicate interface {tap}"));
            }
        }
    }

    fn taken(&mut self, other: Option<(String, Option<Span>)>, name: &VmName, span: Span, problem: &str) {
        // Load may repeat what is there.
        let Some((vm, first)) = other.filter(|(vm, _)| vm != name.as_str()) else { return };
        let error = Diagnostic::error(span, format!("vm \"{name}\" failed: {problem}"));
        let error = error.help(format!("vm \"{vm}\" has it; leave it out to get one that nobody has"));
        self.report.push(match first {
            Some(first) => error.related(first, "it is taken here"),
            None => error,
        });
    }
}
