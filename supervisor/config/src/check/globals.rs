//! Statements about the daemon.

use std::num::NonZeroU32;
use std::path::PathBuf;

use super::{Checker, Mode};
use crate::definition::is_plain_text;
use crate::diagnostic::Diagnostic;
use crate::model::{AgentX, Definition, LocalInet6, Owner, Shutdown, StaggeredStart, StatusVisibility};
use crate::source::Span;
use crate::syntax::tree::{AgentXOption, Global, Spanned, Text};

impl Checker<'_> {
    pub(super) fn global(&mut self, global: &Spanned<Global>) {
        if let Mode::Beside(_) = self.mode {
            let warning = Diagnostic::warning(global.span, "ignored: load changes nothing about the daemon itself");
            return self.report.push(warning.help("put it into the main file and reload"));
        }
        match &global.value {
            Global::LocalPrefix(text) => self.local_prefix(text),
            Global::LocalInet6(None) => self.config.globals.local_inet6 = LocalInet6::Random,
            Global::LocalInet6(Some(text)) => self.local_inet6(text),
            Global::SocketOwner(owner) => {
                if let Some(Owner { uid, gid }) = self.owner(owner) {
                    self.config.globals.socket_owner = Owner { uid, gid };
                }
            }
            Global::AgentX(options) => self.agentx(options),
            Global::StaggeredStart { parallel, delay } => {
                let parallel =
                    self.count(parallel, 1..=StaggeredStart::MAX_PARALLEL, "invalid number of parallel starts");
                let delay = self.count(delay, 0..=StaggeredStart::MAX_DELAY_SECONDS, "invalid delay");
                if let (Some(parallel), Some(delay_seconds)) = (parallel.and_then(NonZeroU32::new), delay) {
                    self.config.globals.staggered_start = Some(StaggeredStart { parallel, delay_seconds });
                }
            }
            Global::StatusVisibleAll => self.config.globals.status_visible = StatusVisibility::All,
            Global::StatusVisiblePermitted => self.config.globals.status_visible = StatusVisibility::Permitted,
            Global::StopTimeout(seconds) => {
                let seconds = self.count(seconds, 0..=Definition::MAX_STOP_TIMEOUT_SECONDS, "invalid stop timeout");
                if let Some(seconds) = seconds.filter(|_| self.only_once("stop timeout", global.span)) {
                    self.config.globals.stop_timeout_seconds = seconds;
                }
            }
            Global::ShutdownStop => self.config.globals.shutdown = Shutdown::Stop,
            Global::ShutdownLeave => self.config.globals.shutdown = Shutdown::Leave,
            Global::ReserveMemory(size) => {
                let size = self.memory(size);
                if self.only_once("reserve memory", global.span) {
                    self.config.globals.reserved_memory = size;
                }
            }
        }
    }

    /// Whether `what` is there for the first time.
    fn only_once(&mut self, what: &'static str, span: Span) -> bool {
        let Some(first) = self.once.get(what) else {
            self.once.insert(what, span);
            return true;
        };
        let error = Diagnostic::error(span, format!("{what} specified more than once"));
        self.report.push(error.related(*first, "first"));
        false
    }

    fn local_prefix(&mut self, text: &Text) {
        match text.value.parse() {
            Ok(prefix) => self.config.globals.local_prefix = prefix,
            Err(error) => {
                let error = Diagnostic::error(text.span, format!("invalid local prefix: {error}"));
                self.report.push(error.help("write a network's address and 1 to 16 bits, like 100.64.0.0/10"));
            }
        }
    }

    fn local_inet6(&mut self, text: &Text) {
        match text.value.parse() {
            Ok(prefix) => self.config.globals.local_inet6 = LocalInet6::Prefix(prefix),
            Err(error) => {
                let error = Diagnostic::error(text.span, format!("invalid local inet6 prefix: {error}"));
                self.report.push(error.help("write a network's address and at most 64 bits, like fd00:1::/64"));
            }
        }
    }

    fn agentx(&mut self, options: &[AgentXOption]) {
        let mut agentx = AgentX { context: None, path: PathBuf::from(AgentX::DEFAULT_PATH) };
        for option in options {
            let (text, problem) = match option {
                AgentXOption::Context(text) if text.value.len() > AgentX::MAX_CONTEXT_BYTES => {
                    (text, "agentx context too large")
                }
                AgentXOption::Path(text) if text.value.len() > AgentX::MAX_PATH_BYTES => {
                    (text, "agentx path too large")
                }
                AgentXOption::Path(text) if !text.value.starts_with('/') => (text, "agentx path is not absolute"),
                AgentXOption::Context(text) | AgentXOption::Path(text) if !is_plain_text(&text.value) => {
                    (text, "invalid character")
                }
                AgentXOption::Context(text) => {
                    agentx.context = Some(text.value.clone());
                    continue;
                }
                AgentXOption::Path(text) => {
                    agentx.path = PathBuf::from(&text.value);
                    continue;
                }
            };
            self.report.push(Diagnostic::error(text.span, problem));
        }
        self.config.globals.agentx = Some(agentx);
    }
}
