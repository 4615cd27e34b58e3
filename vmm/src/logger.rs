//! The log, in Firecracker's format: `TIME [ID:THREAD:LEVEL:FILE:LINE] MESSAGE`, the last three of the bracket on request.
//!
//! The time is UTC. Lines go to standard error until `log_path` says otherwise, which keeps standard output for the guest's
//! console. A line that can't be written at once is lost.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};
use stockade_vmm_api::id::VmId;
use stockade_vmm_api::logger::{Level, Logger as Settings};

use crate::descriptors::{Access, Descriptors, OpenError};

/// The log of this process.
static LOGGER: Logger = Logger(Mutex::new(State {
    id: String::new(),
    output: None,
    shows_level: false,
    shows_origin: false,
    module: None,
}));

struct Logger(Mutex<State>);

struct State {
    id: String,
    /// Standard error, if there is none.
    output: Option<File>,
    shows_level: bool,
    shows_origin: bool,
    module: Option<String>,
}

/// Starts to log.
pub fn start(id: &VmId) {
    LOGGER.state().id = id.as_str().to_owned();
    log::set_max_level(LevelFilter::Info);
    // Fails if there is a log already, which is this one.
    let _ = log::set_logger(&LOGGER);
}

/// Changes the settings that `settings` has, and sets the level, to `Info` if it has none.
///
/// # Errors
/// If the file can't be opened. Nothing is changed then.
pub fn configure(settings: &Settings, descriptors: &Descriptors) -> Result<(), OpenError> {
    let output = settings.log_path.as_deref().map(|path| descriptors.open(path, Access::Append)).transpose()?;
    let mut state = LOGGER.state();
    if output.is_some() {
        state.output = output;
    }
    state.shows_level = settings.show_level.unwrap_or(state.shows_level);
    state.shows_origin = settings.show_log_origin.unwrap_or(state.shows_origin);
    if settings.module.is_some() {
        state.module.clone_from(&settings.module);
    }
    log::set_max_level(filter(settings.level.unwrap_or_default()));
    Ok(())
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Off => LevelFilter::Off,
        Level::Error => LevelFilter::Error,
        Level::Warn => LevelFilter::Warn,
        Level::Info => LevelFilter::Info,
        Level::Debug => LevelFilter::Debug,
        Level::Trace => LevelFilter::Trace,
    }
}

impl Logger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn line(&self, record: &Record<'_>, thread: &str) -> String {
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        // Firecracker's lines have no zone.
        let mut line = format!("{} [{}:{thread}", time.trim_end_matches('Z'), self.id);
        if self.shows_level {
            line.push_str(&format!(":{}", record.level()));
        }
        if self.shows_origin {
            line.push_str(&format!(":{}:{}", record.file().unwrap_or("?"), record.line().unwrap_or(0)));
        }
        line.push_str(&format!("] {}\n", record.args()));
        line
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut state = self.state();
        let module = record.module_path().unwrap_or_default();
        if state.module.as_deref().is_some_and(|prefix| !module.starts_with(prefix)) {
            return;
        }
        let line = state.line(record, std::thread::current().name().unwrap_or("-"));
        // There is nobody to tell about a log that can't be written.
        let _ = match &mut state.output {
            Some(file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(shows_level: bool, shows_origin: bool) -> String {
        let state = State { id: "vm".to_owned(), output: None, shows_level, shows_origin, module: None };
        let record = Record::builder()
            .level(log::Level::Warn)
            .file(Some("a.rs"))
            .line(Some(7))
            .args(format_args!("odd"))
            .build();
        let line = state.line(&record, "main");
        line.split_once(' ').unwrap().1.to_owned()
    }

    #[test]
    fn the_bracket_says_what_was_asked_for() {
        assert_eq!(line(false, false), "[vm:main] odd\n");
        assert_eq!(line(true, false), "[vm:main:WARN] odd\n");
        assert_eq!(line(true, true), "[vm:main:WARN:a.rs:7] odd\n");
    }
}
