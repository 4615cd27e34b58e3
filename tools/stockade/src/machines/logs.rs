//! `stockade logs`: what a guest wrote to its console, from the ring that is kept of it.
//!
//! Rings are root's, beside the daemon's socket; those of `stockade run` are its user's. What a guest writes is for a program as
//! it is, and for a terminal only as far as it is text.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anstream::adapter::StripBytes;
use stockade_api::ErrorCode;
use stockade_client::{Client, ClientError};
use stockade_jailer::console::read_after;
use stockade_supervisor::machine::CONSOLE_RING_BYTES;
use stockade_supervisor::machine::state::State;

use super::output::{Outcome, failed};
use crate::arguments::LogsArguments;
use crate::failure::{Failure, exit};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;

/// How often a console is looked at that nothing was read from.
const PAUSE: Duration = Duration::from_millis(100);

/// After how many looks without a byte the daemon is asked whether the guest still runs.
const LOOKS: u32 = 10;

/// Shows the console of one.
pub async fn logs(arguments: &LogsArguments, client: &Client) -> Outcome {
    let console = Console::find(arguments, client).await?;
    let mut page = Page::of_standard_output();
    let mut after = console.beginning(arguments.lines)?;
    let mut quiet = 0;
    loop {
        let piece = read_after(&console.file, CONSOLE_RING_BYTES, after, PIECE_BYTES)
            .map_err(|error| console.unreadable(&error))?;
        after = piece.next;
        page.write(&piece.bytes).map_err(failed)?;
        if !piece.bytes.is_empty() {
            quiet = 0;
        } else if !arguments.follow || (quiet >= LOOKS && console.is_over(client, arguments).await) {
            return Ok(());
        } else {
            quiet = if quiet < LOOKS { quiet + 1 } else { 0 };
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The ring of a console.
struct Console {
    file: File,
    path: PathBuf,
    /// Who knows when it ends.
    keeper: Keeper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Daemon,
    Run,
}

impl Console {
    /// That of a virtual machine which the daemon knows, or else of one that `stockade run` started.
    async fn find(arguments: &LogsArguments, client: &Client) -> Result<Self, Failure> {
        let failure = match client.show(&arguments.vm).await {
            Ok(vm) => {
                let folder = client.socket().parent().unwrap_or(client.socket());
                return Self::open(folder.join("daemon/consoles").join(vm.id.to_string()), Keeper::Daemon);
            }
            Err(error) if is_unknown(&error) => error,
            Err(error) => return Err(error.into()),
        };
        match arguments.vm.to_string().parse() {
            Ok(name) if State::of_caller().console(&name).exists() => {
                Self::open(State::of_caller().console(&name), Keeper::Run)
            }
            _ => Err(failure.into()),
        }
    }

    fn open(path: PathBuf, keeper: Keeper) -> Result<Self, Failure> {
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path, keeper }),
            Err(error) => {
                let message = format!("read the console {}: {error}", path.display());
                Err(match error.kind() {
                    io::ErrorKind::PermissionDenied => Failure::new(
                        exit::NOT_PERMITTED,
                        "not_permitted",
                        message,
                        "be root: consoles are kept for root",
                    ),
                    io::ErrorKind::NotFound => {
                        Failure::new(exit::IN_THE_WAY, "no_console", message, "start it first: it has not run yet")
                    }
                    _ => Failure::new(exit::FAILED, "failed", message, ""),
                })
            }
        }
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::own(&format!("read the console {}", self.path.display()), error)
    }

    /// The cursor before the last `lines`, or before everything.
    fn beginning(&self, lines: Option<usize>) -> Result<u64, Failure> {
        let Some(lines) = lines else { return Ok(0) };
        let all = read_after(&self.file, CONSOLE_RING_BYTES, 0, usize::MAX).map_err(|error| self.unreadable(&error))?;
        let text = all.bytes.strip_suffix(b"\n").unwrap_or(&all.bytes);
        let newlines = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let skipped = match lines.checked_sub(1) {
            None => all.bytes.len(),
            Some(before) => newlines.map(|(place, _)| place).nth(before).map_or(0, |place| place.saturating_add(1)),
        };
        Ok(all.next.saturating_sub(all.bytes.len().saturating_sub(skipped) as u64))
    }

    /// Whether nothing more is to come.
    async fn is_over(&self, client: &Client, arguments: &LogsArguments) -> bool {
        match self.keeper {
            Keeper::Run => self.file.metadata().map_or(true, |metadata| metadata.nlink() == 0),
            Keeper::Daemon => match client.show(&arguments.vm).await {
                Ok(vm) => !vm.state.is_live(),
                Err(error) => is_unknown(&error),
            },
        }
    }
}

/// Whether the daemon, if there is one, knows no such virtual machine.
fn is_unknown(error: &ClientError) -> bool {
    match error {
        ClientError::NotRunning { .. } => true,
        ClientError::Refused(error) => error.code == ErrorCode::NotFound,
        _ => false,
    }
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
