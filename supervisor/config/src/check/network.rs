//! Switches and interfaces.

use super::{Checker, Mode, Named};
use crate::definition::{is_interface_group, is_interface_name, is_switch_name, is_tap};
use crate::diagnostic::Diagnostic;
use crate::model::{Interface, LinkState, Rdomain, SourceCheck, StartPolicy, Switch};
use crate::syntax::tree::{InterfaceOption, Scalar, Spanned, SwitchBlock, SwitchOption, Text};

impl Checker<'_> {
    pub(super) fn switch(&mut self, block: &SwitchBlock) {
        let name = &block.name;
        if !is_switch_name(&name.value) {
            let error = Diagnostic::error(name.span, format!("switch name too long: {}", name.value));
            return self.report.push(error.help("use 1 to 63 characters"));
        }
        if !self.name(Named::Switch(name.value.clone()), name.span) {
            return;
        }
        let mut switch = Switch {
            name: name.value.clone(),
            start: StartPolicy::Enabled,
            interface: String::new(),
            group: None,
            source_check: SourceCheck::Off,
            rdomain: None,
            link: LinkState::Up,
        };
        let errors = self.report.errors();
        for option in &block.options {
            match &option.value {
                SwitchOption::Enable => switch.start = StartPolicy::Enabled,
                SwitchOption::Disable => switch.start = StartPolicy::Disabled,
                SwitchOption::Group(text) => switch.group = self.group(text),
                SwitchOption::Interface(text) => switch.interface = self.bridge(text).unwrap_or_default(),
                SwitchOption::LockedLladdr => switch.source_check = SourceCheck::Locked,
                SwitchOption::Rdomain(domain) => switch.rdomain = self.rdomain(domain),
                SwitchOption::Up => switch.link = LinkState::Up,
                SwitchOption::Down => switch.link = LinkState::Down,
            }
        }
        if switch.interface.is_empty() && !self.is_broken && self.report.errors() == errors {
            let error = Diagnostic::error(name.span, format!("switch \"{}\" is missing interface name", switch.name));
            self.report.push(error.help("add interface and the name of a bridge of this host, like br0"));
        }
        match (self.mode, self.config.switch(&switch.name)) {
            (Mode::Beside(_), Some(old)) if *old == switch => {}
            (Mode::Beside(_), Some(_)) => self.differs(format!("switch \"{}\"", switch.name), name.span),
            _ => self.config.switches.push(switch),
        }
    }

    fn bridge(&mut self, text: &Text) -> Option<String> {
        let problem = match text.value.len() {
            0..=15 if is_interface_name(&text.value) => return Some(text.value.clone()),
            0..=15 => "invalid switch interface",
            _ => "switch interface too long",
        };
        let error = Diagnostic::error(text.span, format!("{problem}: {}", text.value));
        self.report
            .push(error.help("use the name of a bridge of this host: 1 to 15 letters, digits, '.', '-' and '_'"));
        None
    }

    fn group(&mut self, text: &Text) -> Option<String> {
        if is_interface_group(&text.value) {
            return Some(text.value.clone());
        }
        let error = Diagnostic::error(text.span, format!("invalid group name: {}", text.value));
        self.report.push(error.help("use 1 to 15 letters, digits, '.', '-' and '_', the last of which is no digit"));
        None
    }

    fn rdomain(&mut self, domain: &Spanned<Scalar>) -> Option<Rdomain> {
        let (text, found) = match &domain.value {
            Scalar::Number(number) => (number.to_string(), u8::try_from(*number).ok().map(Rdomain::Table)),
            Scalar::Text(name) => (name.clone(), is_interface_name(name).then(|| Rdomain::Name(name.clone()))),
        };
        if found.is_none() {
            let error = Diagnostic::error(domain.span, format!("invalid rdomain: {text}"));
            self.report.push(error.help("use a number from 0 to 255 or the name of a VRF"));
        }
        found
    }

    /// One interface of a VM.
    pub(super) fn interface(
        &mut self,
        is_local: bool,
        name: Option<&Text>,
        options: &[Spanned<InterfaceOption>],
    ) -> Interface {
        let mut interface = Interface { local: is_local, ..Interface::default() };
        // `tap` alone is any tap.
        if let Some(name) = name.filter(|name| name.value != "tap") {
            if is_tap(&name.value) {
                interface.tap = Some(name.value.clone());
            } else {
                let problem = if name.value.len() > 15 { "interface name too long" } else { "invalid interface" };
                let error = Diagnostic::error(name.span, format!("{problem}: {}", name.value));
                self.report.push(error.help("use tap or tap and a number, or leave it out"));
            }
        }
        for option in options {
            match &option.value {
                InterfaceOption::Switch(text) if is_switch_name(&text.value) => {
                    self.undefined.push(text.clone());
                    interface.switch = Some(text.value.clone());
                }
                InterfaceOption::Switch(text) => {
                    let error = Diagnostic::error(text.span, format!("switch name too long: {}", text.value));
                    self.report.push(error.help("use 1 to 63 characters"));
                }
                InterfaceOption::Group(text) => interface.group = self.group(text),
                InterfaceOption::Lladdr { is_locked, address } => {
                    if *is_locked {
                        interface.source_check = SourceCheck::Locked;
                    }
                    interface.lladdr = address.as_ref().and_then(|address| self.lladdr(address));
                }
                InterfaceOption::Rdomain(domain) => interface.rdomain = self.rdomain(domain),
                InterfaceOption::Up => interface.link = LinkState::Up,
                InterfaceOption::Down => interface.link = LinkState::Down,
            }
        }
        interface
    }

    /// An address; zero is the same as none.
    fn lladdr(&mut self, text: &Text) -> Option<crate::model::MacAddress> {
        let is_zero = text.value.bytes().all(|byte| matches!(byte, b'0' | b':')) && text.value.split(':').count() == 6;
        match text.value.parse() {
            Ok(address) => Some(address),
            Err(_) if is_zero => None,
            Err(error) => {
                let message = format!("invalid address: {}", text.value);
                self.report.push(Diagnostic::error(text.span, message).label(error.to_string()));
                None
            }
        }
    }
}
