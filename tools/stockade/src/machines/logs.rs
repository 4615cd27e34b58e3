//! `stockade logs`: what a guest wrote to its console, from the ring that is kept of it.
//!
//! The daemon shows consoles to whoever may see them; those of `stockade run` are its user's files. What a guest writes is for
//! a program as it is, and for a terminal only as far as it is text.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anstream::adapter::StripBytes;
use stockade_api::{ErrorCode, VmReference, VmSummary};
use stockade_client::console::{Following, Part};
use stockade_client::{Client, ClientError};
use stockade_jailer::console::read_after;
use stockade_supervisor::machine::CONSOLE_RING_BYTES;
use stockade_supervisor::machine::state::State;
use tokio::time::{Instant, sleep};

use super::is_passing;
use super::output::{Outcome, failed};
use crate::arguments::LogsArguments;
use crate::failure::{Failure, exit};
use crate::run::say;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// How often a console is looked at that nothing was read from, and a daemon that is away.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a daemon is looked for that was there before.
const RECONNECTION_TIME: Duration = Duration::from_secs(60);

/// Shows the console of a virtual machine which the daemon knows, or else of one that `stockade run` started.
pub async fn logs(arguments: &LogsArguments, client: &Client) -> Outcome {
    let failure = match client.show(&arguments.vm).await {
        Ok(vm) if vm.generation == 0 => return Err(no_console(&format!("{} has no console yet", vm.name))),
        Ok(vm) => return Kept { client, vm: VmReference::Id(vm.id) }.show(arguments).await,
        Err(error) if is_unknown(&error) => error,
        Err(error) => return Err(error.into()),
    };
    match arguments.vm.to_string().parse() {
        Ok(name) if State::of_caller().console(&name).exists() => {
            Console::open(State::of_caller().console(&name))?.show(arguments).await
        }
        _ => Err(failure.into()),
    }
}

fn no_console(message: &str) -> Failure {
    Failure::new(exit::IN_THE_WAY, "no_console", message, "start it first: it has not run yet")
}

/// The place in `all` where the last `lines` begin.
fn beginning(all: &[u8], lines: usize) -> usize {
    let text = all.strip_suffix(b"\n").unwrap_or(all);
    let newlines = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => all.len(),
        Some(before) => newlines.map(|(place, _)| place).nth(before).map_or(0, |place| place.saturating_add(1)),
    }
}

/// A console that the daemon keeps.
struct Kept<'a> {
    client: &'a Client,
    vm: VmReference,
}

impl Kept<'_> {
    async fn show(&self, arguments: &LogsArguments) -> Outcome {
        let mut page = Page::of_standard_output();
        let mut after = match arguments.lines {
            None => 0,
            Some(lines) => {
                let mut log = self.client.console_log(&self.vm, Part::After(0), Following::No).await?;
                let mut all = Vec::new();
                while let Some(bytes) = log.next().await? {
                    all.extend_from_slice(&bytes);
                }
                log.cursor().saturating_add(beginning(&all, lines) as u64)
            }
        };
        let following = if arguments.follow { Following::Yes } else { Following::No };
        let mut lost_at = None;
        loop {
            match self.read(&mut after, following, &mut page).await? {
                Ok(()) => lost_at = None,
                Err(error) if is_unknown_to_daemon(&error) => return Ok(()),
                Err(ClientError::Refused(error)) if !is_passing(error.code) => return Err(error.into()),
                Err(error) => {
                    let since = *lost_at.get_or_insert_with(|| {
                        say("the connection to stockaded broke off; connecting again");
                        Instant::now()
                    });
                    if following == Following::No || since.elapsed() > RECONNECTION_TIME {
                        return Err(error.into());
                    }
                }
            }
            if following == Following::No || (lost_at.is_none() && self.is_over().await) {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Shows what comes after a cursor, and moves that, until nothing more does or the connection breaks off.
    async fn read(
        &self,
        after: &mut u64,
        following: Following,
        page: &mut Page,
    ) -> Result<Result<(), ClientError>, Failure> {
        let mut log = match self.client.console_log(&self.vm, Part::After(*after), following).await {
            Ok(log) => log,
            Err(error) => return Ok(Err(error)),
        };
        let lost = log.cursor().saturating_sub(*after);
        if lost > 0 && *after > 0 {
            say(&format!("{lost} bytes are lost: they came faster than they were read"));
        }
        *after = log.cursor();
        loop {
            match log.next().await {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(bytes)) => {
                    *after = after.saturating_add(bytes.len() as u64);
                    page.write(&bytes).map_err(failed)?;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Whether nothing more is to come.
    async fn is_over(&self) -> bool {
        match self.client.show(&self.vm).await {
            Ok(VmSummary { state, .. }) => !state.is_live(),
            Err(error) => is_unknown_to_daemon(&error),
        }
    }
}

/// The ring of a console of `stockade run`.
struct Console {
    file: File,
    path: PathBuf,
}

impl Console {
    fn open(path: PathBuf) -> Result<Self, Failure> {
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(Failure::own(&format!("read the console {}", path.display()), &error)),
        }
    }

    async fn show(&self, arguments: &LogsArguments) -> Outcome {
        let unreadable = |error: io::Error| Failure::own(&format!("read the console {}", self.path.display()), &error);
        let read = |after, most| read_after(&self.file, CONSOLE_RING_BYTES, after, most).map_err(unreadable);
        let mut page = Page::of_standard_output();
        let mut after = match arguments.lines {
            None => 0,
            Some(lines) => {
                let all = read(0, usize::MAX)?;
                all.first().saturating_add(beginning(&all.bytes, lines) as u64)
            }
        };
        loop {
            let piece = read(after, PIECE_BYTES)?;
            after = piece.next;
            page.write(&piece.bytes).map_err(failed)?;
            if !piece.bytes.is_empty() {
                continue;
            }
            // It is removed with everything else of the run.
            if !arguments.follow || self.file.metadata().map_or(true, |metadata| metadata.nlink() == 0) {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether the daemon, if there is one, knows no such virtual machine.
fn is_unknown(error: &ClientError) -> bool {
    matches!(error, ClientError::NotRunning { .. }) || is_unknown_to_daemon(error)
}

fn is_unknown_to_daemon(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(error) if error.code == ErrorCode::NotFound)
}

/// Standard output, as a console is shown on it.
struct Page {
    /// Takes escape sequences away, if somebody looks.
    strip: Option<StripBytes>,
}

impl Page {
    fn of_standard_output() -> Self {
        Self { strip: io::stdout().is_terminal().then(StripBytes::new) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut output = io::stdout().lock();
        match &mut self.strip {
            None => output.write_all(bytes)?,
            Some(strip) => {
                let text: Vec<u8> = strip.strip_next(bytes).flatten().copied().collect();
                output.write_all(text_only(&text).as_bytes())?;
            }
        }
        output.flush()
    }
}

/// What is text: no control character but those that part words and lines.
fn text_only(bytes: &[u8]) -> String {
    let is_text = |letter: &char| matches!(letter, '\n' | '\t') || !stockade_supervisor::text::is_unsafe(*letter);
    String::from_utf8_lossy(bytes).chars().filter(is_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_text() {
        let mut strip = StripBytes::new();
        let shown: Vec<String> = [&b"\x1b[31mred\x1b["[..], b"0m\r\n\x07\tx\xc2\x9b2J\x1b]0;t\x07y\xe2\x80\xaez\r"]
            .map(|piece| text_only(&strip.strip_next(piece).flatten().copied().collect::<Vec<_>>()))
            .into();
        assert_eq!(shown.concat().replace('\u{fffd}', ""), "red\n\tx2Jyz");
    }
}
