//! A tree to a configuration: everything that vmd checks, when it parses and when it registers a VM, and what Stockade checks besides.
//!
//! What is wrong is reported and left out, so that the rest is checked too; a configuration with an error is never used.

mod globals;
mod network;
mod quotas;
mod values;
mod vm;

use std::collections::{BTreeMap, HashMap};

use crate::diagnostic::{Diagnostic, Report};
use crate::host::Host;
use crate::limits::MAX_ERRORS;
use crate::model::{Config, MacAddress};
use crate::source::Span;
use crate::syntax::tree::{Spanned, Statement};

/// What is made of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode<'c> {
    /// All of the configuration.
    Whole,
    /// VMs, switches and quotas beside those that are there.
    Beside(&'c Config),
}

/// The configuration that `statements` describe.
pub(crate) fn check(statements: &[Statement], host: &dyn Host, mode: Mode<'_>, report: &mut Report) -> Config {
    let is_broken = report.errors() > 0;
    let mut checker = Checker {
        host,
        report,
        mode,
        is_broken,
        config: Config::default(),
        names: HashMap::new(),
        lladdrs: HashMap::new(),
        taps: HashMap::new(),
        once: BTreeMap::new(),
        undefined: Vec::new(),
    };
    if let Mode::Beside(config) = mode {
        checker.begin_with(config);
    }
    for statement in statements {
        if checker.report.diagnostics.len() > MAX_ERRORS {
            break;
        }
        match statement {
            Statement::Global(global) => checker.global(global),
            Statement::Switch(block) => checker.switch(block),
            Statement::Vm(block) => checker.vm(block),
            Statement::Quota(block) => checker.quota(block),
        }
    }
    checker.finish()
}

/// A name of something, and what kind of thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Named {
    Vm(String),
    Switch(String),
    Quota(String),
}

struct Checker<'a> {
    host: &'a dyn Host,
    report: &'a mut Report,
    mode: Mode<'a>,
    /// Whether lines are missing, so that what is not there may be among them.
    is_broken: bool,
    config: Config,
    /// Where names are defined.
    names: HashMap<Named, Span>,
    lladdrs: HashMap<MacAddress, (String, Option<Span>)>,
    taps: HashMap<String, (String, Option<Span>)>,
    /// Where globals are that may be there once.
    once: BTreeMap<&'static str, Span>,
    /// Switches that interfaces are plugged into.
    undefined: Vec<Spanned<String>>,
}

impl Checker<'_> {
    fn begin_with(&mut self, config: &Config) {
        self.config = config.clone();
        for vm in &config.vms {
            for interface in &vm.definition.interfaces {
                if let Some(address) = interface.lladdr {
                    self.lladdrs.insert(address, (vm.name.to_string(), None));
                }
                if let Some(tap) = &interface.tap {
                    self.taps.insert(tap.clone(), (vm.name.to_string(), None));
                }
            }
        }
    }

    /// Remembers that `name` is defined at `span`, unless it is already.
    fn name(&mut self, name: Named, span: Span) -> bool {
        let what = match &name {
            Named::Vm(name) => format!("vm \"{name}\""),
            Named::Switch(name) => format!("switch \"{name}\""),
            Named::Quota(owner) => format!("quota {owner}"),
        };
        match self.names.get(&name) {
            Some(first) => {
                let error = Diagnostic::error(span, format!("{what} is already defined"));
                self.report.push(error.related(*first, "here").help("use another name, or remove one of them"));
                false
            }
            None => {
                self.names.insert(name, span);
                true
            }
        }
    }

    /// Reports what `load` finds to be different from what is there.
    fn differs(&mut self, what: String, span: Span) {
        let error = Diagnostic::error(span, format!("{what} is already defined, and differs"));
        self.report.push(error.help("reload replaces definitions; load only adds some"));
    }

    fn finish(mut self) -> Config {
        for switch in std::mem::take(&mut self.undefined) {
            if self.config.switch(&switch.value).is_none() {
                let known = self.config.switches.iter().map(|switch| switch.name.as_str());
                let similar =
                    crate::diagnostic::closest(&switch.value, known).map(|name| format!("did you mean \"{name}\"?"));
                let warning = Diagnostic::warning(switch.span, format!("switch \"{}\" is not defined", switch.value));
                self.report.push(Diagnostic { help: similar, ..warning });
            }
        }
        self.check_quotas();
        self.config
    }
}
