//! The caller's terminal: its size, and raw mode, which is left again on every way out of the program that a program can see.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use stockade_supervisor::request::TerminalSize;

/// Size of a terminal that has none, as DEC made them.
const DEFAULT_SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// How standard input was before it was made raw; `None` if it is that way.
static BEFORE_RAW: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether standard input and output are terminals, so that somebody sits there.
pub fn is_interactive() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}

/// Size of the terminal that is shown to the user.
pub fn size() -> TerminalSize {
    let of = |stream: &dyn AsFd| tcgetwinsize(stream.as_fd()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let size = of(&io::stdout()).or_else(|| of(&io::stdin())).or_else(|| of(&io::stderr()));
    size.map_or(DEFAULT_SIZE, |size| TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Makes the terminal on standard input raw: every key goes to the guest. Does nothing if it is no terminal.
pub fn make_raw() -> io::Result<()> {
    let stdin = io::stdin();
    if !isatty(&stdin) {
        return Ok(());
    }
    let mut before = BEFORE_RAW.lock().unwrap_or_else(PoisonError::into_inner);
    if before.is_some() {
        return Ok(());
    }
    let mut attributes = tcgetattr(&stdin)?;
    *before = Some(attributes.clone());
    attributes.make_raw();
    tcsetattr(&stdin, OptionalActions::Now, &attributes)?;
    Ok(())
}

/// Undoes [`make_raw`].
pub fn restore() {
    let mut before = BEFORE_RAW.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(attributes) = before.take() {
        // What can't be restored is a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &attributes);
    }
}
