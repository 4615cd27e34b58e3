//! What the daemon and its roles say of themselves: lines on standard error.
//!
//! If that is the journal of systemd, which says so by `JOURNAL_STREAM` (systemd.exec(5)), each line begins with its priority
//! (sd-daemon(3)), and the journal knows the rest. Otherwise each says who speaks. `-d` asks for the latter in any case.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// How lines begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// With who speaks.
    Plain,
    /// With a priority.
    Journal,
}

/// The argument that tells a role that standard error is the journal, which it can't know without an environment.
pub const JOURNAL_ARGUMENT: &str = "--journal";

#[derive(Debug)]
struct Messages {
    style: Style,
    /// Who speaks: the daemon, or one of its roles.
    speaker: String,
}

static MESSAGES: OnceLock<Messages> = OnceLock::new();

/// Starts to log, once in a process: as the daemon, or as the role with this name.
pub fn start(style: Style, role: Option<&str>, level: LevelFilter) {
    let speaker = role.map_or_else(|| "stockaded".to_owned(), |role| format!("stockaded: {role}"));
    let messages = MESSAGES.get_or_init(|| Messages { style, speaker });
    log::set_max_level(level);
    // Fails if there is a log already, which is this one.
    let _ = log::set_logger(messages);
}

/// The style that standard error asks for.
pub fn style_of_standard_error() -> Style {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let is_journal = journal.is_some_and(|journal| {
        let error = std::io::stderr();
        rustix::fs::fstat(error.as_fd()).is_ok_and(|file| journal == format!("{}:{}", file.st_dev, file.st_ino))
    });
    if is_journal { Style::Journal } else { Style::Plain }
}

/// Arguments that have a role log as this process does.
pub fn arguments() -> impl Iterator<Item = &'static str> {
    let journal = MESSAGES.get().is_some_and(|messages| messages.style == Style::Journal);
    let verbose = log::max_level() >= LevelFilter::Debug;
    journal.then_some(JOURNAL_ARGUMENT).into_iter().chain(verbose.then_some("-v"))
}

impl Log for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("stockade")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = self.text(record.level(), &record.args().to_string());
            // At once, so that lines of several processes don't mix. One that can't be written is lost.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn flush(&self) {}
}

impl Messages {
    fn text(&self, level: Level, message: &str) -> String {
        match self.style {
            Style::Plain => format!("{}: {message}\n", self.speaker),
            Style::Journal => {
                // Which program it is the journal knows, but not which role.
                let role = self.speaker.strip_prefix("stockaded: ").map(|role| format!("{role}: ")).unwrap_or_default();
                let number = priority(level);
                message.lines().map(|line| format!("<{number}>{role}{line}\n")).collect()
            }
        }
    }
}

/// As syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_in_the_journal_has_its_priority() {
        let messages = |style, speaker: &str| Messages { style, speaker: speaker.to_owned() };
        let plain = messages(Style::Plain, "stockaded: net");
        assert_eq!(plain.text(Level::Info, "a\nb"), "stockaded: net: a\nb\n");
        let journal = messages(Style::Journal, "stockaded");
        assert_eq!(journal.text(Level::Error, "a\nb"), "<3>a\n<3>b\n");
        assert_eq!(messages(Style::Journal, "stockaded: net").text(Level::Warn, "a"), "<4>net: a\n");
        assert_eq!([Level::Info, Level::Debug].map(priority), [6, 7]);
    }
}
