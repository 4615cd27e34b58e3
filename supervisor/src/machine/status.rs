//! What is known of a machine, put together from what its warden and its vmm say.

use stockade_jailer::violation::Violation;
use stockade_jailer::warden::{Event as WardenEvent, LayerReport};
use stockade_vmm_api::event::{Event, EventKind};
use stockade_vmm_api::exit::ExitReason;

use crate::text::printable;

/// What is known of a machine. Times are microseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub struct Status {
    /// When the vmm was executed in its jail.
    pub confined_at_us: Option<u64>,
    /// When the machine existed in KVM.
    pub kvm_ready_at_us: Option<u64>,
    /// When the guest was in memory.
    pub loaded_at_us: Option<u64>,
    /// When the guest started.
    pub started_at_us: Option<u64>,
    /// What the jail enforces.
    pub confinement: Vec<LayerReport>,
    /// Process id of the vmm.
    pub(super) vmm_pid: Option<i32>,
    /// What the warden could not remove, once it is done.
    pub(super) left_behind: Option<Vec<String>>,
    pub(super) warden_over: bool,
    pub(super) events_over: bool,
    /// Why there is no jail.
    refusal: Option<String>,
    /// What the vmm said about the guest's end, or its own.
    vmm_said: Option<VmmSaid>,
    /// What the warden said about the end of the vmm's process.
    process_end: Option<String>,
    /// The system call for which a filter killed the vmm.
    pub violation: Option<Violation>,
    /// What made no sense.
    fault: Option<String>,
}

#[derive(Debug)]
enum VmmSaid {
    GuestEnded { reason: ExitReason, message: String },
    Failed { message: String },
}

/// Why a machine does not run any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MachineEnd {
    /// There was never a jail.
    #[error("the jail was refused: {0}")]
    Refused(String),
    /// The guest's own doing.
    #[error("{}: {message}", guest_did(*reason))]
    Guest {
        /// What it did.
        reason: ExitReason,
        /// The same in words.
        message: String,
    },
    /// The vmm gave up.
    #[error("the vmm failed: {0}")]
    Vmm(String),
    /// The vmm's process ended without a word from it.
    #[error("the vmm died: {0}")]
    Process(String),
    /// A filter killed the vmm, which may have been in the hands of its guest.
    #[error("the vmm was killed for a system call that its filter forbids: {0}")]
    Violation(Violation),
    /// The end of a machine that somebody else keeps, in their words.
    #[error("{0}")]
    Told(String),
    /// The warden is gone, and the vmm with it.
    #[error("the vmm's warden died, so the vmm was killed{0}")]
    Warden(String),
}

fn guest_did(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Reset => "the guest reset itself",
        ExitReason::PowerOff => "the guest powered itself off",
        ExitReason::Halted => "the guest halted",
        ExitReason::TripleFault => "the guest crashed with a triple fault",
        ExitReason::Panicked => "the guest's kernel panicked",
        ExitReason::InternalError => "KVM could not go on with the guest",
        ExitReason::EntryFailure => "the processor refused the guest",
    }
}

impl Status {
    pub(super) fn note_event(&mut self, event: Event) {
        let mark = match event.kind {
            EventKind::KvmReady => &mut self.kvm_ready_at_us,
            EventKind::Loaded => &mut self.loaded_at_us,
            EventKind::Started => &mut self.started_at_us,
            EventKind::Launched | EventKind::Paused | EventKind::Resumed => return,
            EventKind::Ended { reason, message } => {
                let message = printable(&message);
                self.vmm_said.get_or_insert(VmmSaid::GuestEnded { reason, message });
                return;
            }
            EventKind::Failed { message } => {
                self.vmm_said.get_or_insert(VmmSaid::Failed { message: printable(&message) });
                return;
            }
        };
        mark.get_or_insert(event.at_us);
    }

    pub(super) fn note_warden(&mut self, event: WardenEvent) {
        match event {
            WardenEvent::Refused { message, .. } => self.refusal = Some(printable(&message)),
            WardenEvent::Confined { pid, at_us, confinement } => {
                self.vmm_pid = Some(pid);
                self.confined_at_us = Some(at_us);
                self.confinement = confinement;
            }
            WardenEvent::Ended { message, violation, .. } => {
                self.process_end = Some(printable(&message));
                self.violation = violation;
            }
            WardenEvent::Vmm { line } => match serde_json::from_str(&line) {
                Ok(event) => self.note_event(event),
                Err(_) => self.note_fault(&super::events::EventError::Malformed),
            },
            // Says something about the journal, and nothing about the machine.
            WardenEvent::TakenOver { .. } => {}
            WardenEvent::Cleaned { left_behind } => {
                self.left_behind = Some(left_behind.iter().map(|left| printable(left)).collect());
            }
        }
    }

    pub(super) fn note_fault(&mut self, fault: &dyn std::error::Error) {
        self.fault.get_or_insert(crate::text::chain(fault));
    }

    /// Whether the vmm's process is over, or there will never be one.
    pub(super) fn process_is_over(&self) -> bool {
        self.refusal.is_some() || self.process_end.is_some() || self.left_behind.is_some() || self.warden_over
    }

    /// Whether there ever was a jail, or an attempt at one.
    pub(super) fn process_was_there(&self) -> bool {
        self.confined_at_us.is_some() || self.refusal.is_some() || self.process_end.is_some()
    }

    /// Why it is over. `diagnostics` is what jailer and vmm wrote to their standard error.
    pub(super) fn end(&self, diagnostics: &str) -> MachineEnd {
        let aside = if diagnostics.is_empty() { String::new() } else { format!(" ({diagnostics})") };
        if let Some(refusal) = &self.refusal {
            return MachineEnd::Refused(refusal.clone());
        }
        // Whatever the vmm has said, it was not itself any more.
        if let Some(violation) = &self.violation {
            return MachineEnd::Violation(violation.clone());
        }
        if let Some(fault) = &self.fault {
            return MachineEnd::Vmm(format!("{fault}{aside}"));
        }
        match (&self.vmm_said, &self.process_end) {
            (Some(VmmSaid::GuestEnded { reason, message }), _) => {
                MachineEnd::Guest { reason: *reason, message: message.clone() }
            }
            (Some(VmmSaid::Failed { message }), _) => MachineEnd::Vmm(message.clone()),
            (None, Some(message)) => MachineEnd::Process(format!("{message}{aside}")),
            (None, None) => MachineEnd::Warden(aside),
        }
    }
}
