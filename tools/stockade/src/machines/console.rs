//! `stockade console`: the caller's terminal becomes that of a guest.
//!
//! The daemon may come and go meanwhile: what the guest writes is counted, so that a new connection goes on where the last one
//! broke off.

mod escape;
mod keys;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use stockade_api::{ErrorCode, Exit, VmReference, VmSummary};
use stockade_client::console::{Following, Part, Stream, Typing};
use stockade_client::{Client, ClientError};
use stockade_supervisor::text::printable;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::output::{Outcome, failed};
use super::{ending, is_passing, not_running};
use crate::arguments::ConsoleArguments;
use crate::failure::{Failure, exit};
use crate::run::write_error_line;
use crate::terminal;
use keys::{Keys, Leave};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;
/// How often a daemon is looked for that was there before, and for how long.
const RECONNECTION_PAUSE: Duration = Duration::from_millis(200);
const RECONNECTION_TIME: Duration = Duration::from_secs(60);
/// How long the end of a virtual machine may be on its way whose console has ended.
const END_TIME: Duration = Duration::from_secs(1);

/// Attaches to the console of one that runs.
pub async fn console(arguments: &ConsoleArguments, client: &Client) -> Outcome {
    let vm = client.show(&arguments.vm).await?;
    if !vm.state.is_live() && vm.state != stockade_api::VmState::Waiting {
        return Err(not_running(&vm));
    }
    let typing = match (arguments.read_only, arguments.take) {
        (true, _) => Typing::Never,
        (false, true) => Typing::Take,
        (false, false) => Typing::Ask,
    };
    attend(client, &vm, typing, 0).await
}

/// Shows the console of `vm` from the cursor `after` on, and types at it, until it has ended or somebody leaves.
pub async fn attend(client: &Client, vm: &VmSummary, typing: Typing, after: u64) -> Outcome {
    let mut console = Console { client, vm: VmReference::Id(vm.id), name: printable(&vm.name), typing, cursor: after };
    let first = console.connect_first().await?;
    let raw = terminal::make_raw().map_err(|error| Failure::own("make the terminal raw", &error));
    let attended = match raw {
        Ok(()) => tokio::select! {
            attended = console.attend(first) => attended,
            number = ending_signal() => Err(signalled(number)),
        },
        Err(failure) => Err(failure),
    };
    terminal::restore();
    match attended? {
        End::Left => note(&format!("left the console of {}", console.name)),
        End::Over(None) => note(&format!("{} has ended", console.name)),
        End::Over(exit) => note(&format!("{} {}", console.name, ending("terminated", exit.as_ref()))),
    }
    Ok(())
}

/// A console that is attended.
struct Console<'a> {
    client: &'a Client,
    vm: VmReference,
    /// Fit for a terminal.
    name: String,
    typing: Typing,
    /// How many bytes the guest had written before the next one that is shown.
    cursor: u64,
}

/// Why it is not attended any more.
enum End {
    /// The caller has left.
    Left,
    /// The virtual machine has ended; how, if that is known.
    Over(Option<Exit>),
}

impl Console<'_> {
    /// Connects, or says why that is not possible. Nothing if the virtual machine has ended.
    async fn connect_first(&mut self) -> Result<Option<Stream>, Failure> {
        let someone = io::stdin().is_terminal();
        match self.connect().await {
            Err(error) if is(&error, ErrorCode::ConsoleInUse) && someone => {
                self.typing = Typing::Never;
                note(&format!(
                    "somebody else types at the console of {}; you see it only (--take takes over)",
                    self.name
                ));
                self.connect().await.map_err(Failure::from)
            }
            Err(error) if is(&error, ErrorCode::ConsoleInUse) => {
                let message = format!("somebody else types at the console of {}", self.name);
                let remedy = "only read it with --read-only, or take it over with --take";
                Err(Failure::new(exit::IN_THE_WAY, ErrorCode::ConsoleInUse.name(), message, remedy))
            }
            Ok(stream) => {
                if someone && stream.is_some() {
                    note(&format!("the console of {}; ~. leaves it, ~? shows more", self.name));
                }
                Ok(stream)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Connects. Nothing if the virtual machine has ended.
    async fn connect(&self) -> Result<Option<Stream>, ClientError> {
        match self.client.console(&self.vm, self.typing, self.cursor).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is(&error, ErrorCode::NotRunning) || is(&error, ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn attend(&mut self, first: Option<Stream>) -> Result<End, Failure> {
        let mut keys = Keys::of_standard_input();
        let mut connected = first;
        loop {
            let Some(stream) = connected else { return self.last_words().await };
            let waiting = self.client.clone();
            let vm = self.vm.clone();
            let over = tokio::spawn(async move { waiting.wait(&vm).await });
            self.note_gap(stream.cursor);
            self.typing = match self.typing {
                Typing::Take => Typing::Ask,
                typing => typing,
            };
            let typing = self.typing;
            tokio::select! {
                shown = show(&stream, &mut self.cursor) => shown?,
                Leave::User = keys.type_into(Some(&stream.socket), typing) => return Ok(End::Left),
            }
            if let Ok(Ok(Ok(exit))) = timeout(END_TIME, over).await {
                // A daemon that died may have lost the last of it.
                return self
                    .last_words()
                    .await
                    .map(|end| if matches!(end, End::Over(None)) { End::Over(exit) } else { end });
            }
            if keys.are_over() {
                self.typing = Typing::Never;
            }
            tokio::select! {
                again = self.reconnect() => connected = again?,
                Leave::User = keys.type_into(None, typing) => return Ok(End::Left),
            }
        }
    }

    /// Connects again, as soon as there is a daemon.
    async fn reconnect(&mut self) -> Result<Option<Stream>, Failure> {
        let began = Instant::now();
        let mut said = false;
        loop {
            match self.connect().await {
                Ok(stream) => {
                    if said && stream.is_some() {
                        tell(&format!("connected to the console of {} again", self.name));
                    }
                    return Ok(stream);
                }
                Err(error) if is(&error, ErrorCode::ConsoleInUse) => {
                    self.typing = Typing::Never;
                    tell(&format!("somebody else types at the console of {} now; you see it only", self.name));
                }
                Err(ClientError::Refused(error)) if !is_passing(error.code) => return Err(error.into()),
                Err(error) if began.elapsed() > RECONNECTION_TIME => return Err(error.into()),
                Err(_) => {
                    if !said {
                        tell("the connection to stockaded broke off; connecting again (~. leaves)");
                        said = true;
                    }
                    sleep(RECONNECTION_PAUSE).await;
                }
            }
        }
    }

    fn note_gap(&mut self, cursor: u64) {
        match cursor.checked_sub(self.cursor) {
            Some(0) => {}
            // The first one begins with what is kept.
            Some(_) if self.cursor == 0 => {}
            Some(lost) => tell(&format!("{lost} bytes of the console are lost: they came faster than they were read")),
            None => tell("the console begins anew"),
        }
        self.cursor = cursor;
    }

    /// Shows what was written before the end and not seen yet, and says how it ended.
    async fn last_words(&mut self) -> Result<End, Failure> {
        match self.client.console_log(&self.vm, Part::After(self.cursor), Following::No).await {
            Ok(mut log) => {
                if log.cursor() >= self.cursor {
                    self.note_gap(log.cursor());
                    while let Some(bytes) = log.next().await? {
                        self.cursor = self.cursor.saturating_add(bytes.len() as u64);
                        write(bytes.to_vec()).await?;
                    }
                }
            }
            Err(error) if is(&error, ErrorCode::NotFound) => return Ok(End::Over(None)),
            Err(error) => return Err(error.into()),
        }
        let exit = self.client.show(&self.vm).await.map(|vm| vm.last_exit);
        Ok(End::Over(exit.unwrap_or_default()))
    }
}

/// Shows what comes from `stream` until it ends, and counts it.
async fn show(stream: &Stream, cursor: &mut u64) -> Result<(), Failure> {
    let mut piece = stream.early.to_vec();
    loop {
        let count = piece.len() as u64;
        write(piece).await?;
        *cursor = cursor.saturating_add(count);
        piece = receive(&stream.socket).await;
        if piece.is_empty() {
            return Ok(());
        }
    }
}

/// What comes next; nothing at the end, and when the connection breaks off.
async fn receive(socket: &UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; PIECE_BYTES];
    while socket.readable().await.is_ok() {
        match socket.try_read(&mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                return bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    Vec::new()
}

/// Writes to standard output, which may take as long as it likes.
async fn write(bytes: Vec<u8>) -> Result<(), Failure> {
    let written = spawn_blocking(move || {
        let mut output = io::stdout().lock();
        output.write_all(&bytes).and_then(|()| output.flush())
    });
    written.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}

/// Says a line on standard error while the terminal may be raw.
pub(super) fn tell(line: &str) {
    write_error_line(&format!("\r\nstockade: {line}\r"));
}

/// Says a line on standard error.
fn note(line: &str) {
    crate::run::say(line);
}

fn is(error: &ClientError, code: ErrorCode) -> bool {
    matches!(error, ClientError::Refused(error) if error.code == code)
}

/// The number of a signal that asks to end.
async fn ending_signal() -> i32 {
    let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    for kind in kinds {
        // Without a handler the signal does what it does by itself.
        let Ok(mut signals) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            signals.recv().await;
            let _ = sender.send(kind.as_raw_value()).await;
        });
    }
    drop(sender);
    match receiver.recv().await {
        Some(number) => number,
        None => std::future::pending().await,
    }
}

fn signalled(number: i32) -> Failure {
    let code = u8::try_from(number.saturating_add(128)).unwrap_or(exit::FAILED);
    Failure::new(code, "signalled", format!("signal {number} ends this"), "the virtual machine goes on")
}
