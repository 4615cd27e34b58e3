//! A terminal in raw mode: each key goes to the guest as it is, and the guest does the echo.
//!
//! Syscalls: `ioctl` (`TCGETS`, `TCSETS`, `TIOCGPGRP`) and `getpgrp`, at start and end.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

/// A terminal that is in raw mode (termios(3)) for as long as this lives.
pub(super) struct RawTerminal {
    terminal: OwnedFd,
    original: Termios,
}

impl RawTerminal {
    /// Puts `input` into raw mode. `None` if that is no terminal, or one that belongs to another job: changing it would stop
    /// this process.
    pub(super) fn enter(input: impl AsFd) -> Option<Self> {
        let original = tcgetattr(&input).ok()?;
        if tcgetpgrp(&input).is_ok_and(|foreground| foreground != getpgrp()) {
            return None;
        }
        let terminal = input.as_fd().try_clone_to_owned().ok()?;
        let mut raw = original.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw).ok()?;
        Some(Self { terminal, original })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone can't be restored, and there's nobody to tell.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.original);
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    use super::*;

    #[test]
    fn a_terminal_is_raw_until_it_is_dropped() {
        let pty = openpty(None, None).unwrap();
        let flags = || tcgetattr(&pty.slave).unwrap().local_flags;
        let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        assert!(flags().contains(cooked));

        let raw = RawTerminal::enter(&pty.slave).unwrap();
        assert!(!flags().intersects(cooked));

        drop(raw);
        assert!(flags().contains(cooked));
    }

    #[test]
    fn what_is_no_terminal_is_left_alone() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(RawTerminal::enter(&reader).is_none());
    }
}
