//! Quotas.

use super::{Checker, Mode, Named};
use crate::diagnostic::Diagnostic;
use crate::model::{Quota, Subject, Usage};
use crate::syntax::tree::{Number, QuotaBlock, QuotaOption};

impl Checker<'_> {
    pub(super) fn quota(&mut self, block: &QuotaBlock) {
        let subject = match &block.owner {
            None => Subject::Default,
            Some(owner) => match self.owner(owner) {
                None => return,
                Some(found) => match found.gid {
                    None => Subject::User(found.uid),
                    Some(gid) if found.uid == 0 => Subject::Group(gid),
                    Some(_) => {
                        let error = Diagnostic::error(owner.span, "a quota is for a user or for a group");
                        return self.report.push(error.help("write \"user\" or \":group\""));
                    }
                },
            },
        };
        let span = block.owner.as_ref().map_or(block.span, |owner| owner.span);
        if !self.name(Named::Quota(describe(subject)), span) {
            return;
        }
        let mut quota = Quota { subject, vms: None, cpus: None, memory: None, disks: None };
        for option in &block.options {
            match &option.value {
                QuotaOption::Vms(number) => quota.vms = self.quota_count(number),
                QuotaOption::Cpus(number) => quota.cpus = self.quota_count(number),
                QuotaOption::Memory(size) => quota.memory = self.memory(size),
                QuotaOption::Disks(number) => quota.disks = self.quota_count(number),
            }
        }
        let old = self.config.quotas.iter().find(|old| old.subject == subject);
        match (self.mode, old) {
            (Mode::Beside(_), Some(old)) if *old == quota => {}
            (Mode::Beside(_), Some(_)) => self.differs(format!("quota {}", describe(subject)), span),
            _ => self.config.quotas.push(quota),
        }
    }

    fn quota_count(&mut self, number: &Number) -> Option<u32> {
        self.count(number, 0..=1_000_000, "invalid quota")
    }

    /// Warns of owners whose VMs can't all run at once.
    pub(super) fn check_quotas(&mut self) {
        let mut warnings = Vec::new();
        for quota in &self.config.quotas {
            let owned = self.config.vms.iter().map(|vm| &vm.definition).filter(|definition| match quota.subject {
                Subject::User(uid) => definition.owner.uid == uid,
                Subject::Group(gid) => definition.owner.gid == Some(gid),
                Subject::Default => false,
            });
            let Some(span) = self.names.get(&Named::Quota(describe(quota.subject))) else { continue };
            if let Err(error) = quota.admit(Usage::default(), Usage::of(owned)) {
                let message =
                    format!("not all vms of this owner can run at once: they need {} {}", error.wanted, error.resource);
                warnings.push(Diagnostic::warning(*span, message).label(format!("the quota is {}", error.limit)));
            }
        }
        self.report.diagnostics.extend(warnings);
    }
}

fn describe(subject: Subject) -> String {
    match subject {
        Subject::Default => "default".to_owned(),
        Subject::User(uid) => format!("owner {uid}"),
        Subject::Group(gid) => format!("owner :{gid}"),
    }
}
