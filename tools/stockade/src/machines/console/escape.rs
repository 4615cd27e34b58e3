//! Keys that are for this program and not for the guest, as in cu(1) and ssh(1): a tilde at the beginning of a line, and
//! what follows it.

/// What somebody is told who asks.
pub const HELP: &[&str] = &[
    "~.  leave the console; the virtual machine goes on",
    "~?  this list",
    "~~  a tilde",
    "each at the beginning of a line",
];

/// What is to be done beside typing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// Leave the console.
    Leave,
    /// Show [`HELP`].
    Help,
}

/// Finds them among what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    /// At the beginning of a line.
    Beginning,
    /// After a tilde at the beginning of a line, which is held back.
    Tilde,
    /// Somewhere else.
    Within,
}

impl Escapes {
    /// Takes `keys` until the first escape, puts what is for the guest behind `typed`, and returns that escape with the keys
    /// after it.
    pub fn take<'a>(&mut self, keys: &'a [u8], typed: &mut Vec<u8>) -> Option<(Escape, &'a [u8])> {
        let mut rest = keys.iter();
        while let Some(key) = rest.next() {
            let found = match (*self, key) {
                (Self::Beginning, b'~') => {
                    *self = Self::Tilde;
                    continue;
                }
                (Self::Tilde, b'.') => Some(Escape::Leave),
                (Self::Tilde, b'?') => Some(Escape::Help),
                (Self::Tilde, b'~') | (Self::Beginning | Self::Within, _) => None,
                (Self::Tilde, _) => {
                    typed.push(b'~');
                    None
                }
            };
            if let Some(found) = found {
                *self = Self::Beginning;
                return Some((found, rest.as_slice()));
            }
            typed.push(*key);
            *self = if matches!(key, b'\r' | b'\n') { Self::Beginning } else { Self::Within };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typed in these pieces, with `<.>` and `<?>` for escapes.
    fn typed(pieces: &[&str]) -> String {
        let mut escapes = Escapes::Beginning;
        let mut text = Vec::new();
        for piece in pieces {
            let mut keys = piece.as_bytes();
            while let Some((escape, rest)) = escapes.take(keys, &mut text) {
                text.extend_from_slice(if escape == Escape::Leave { b"<.>" } else { b"<?>" });
                keys = rest;
            }
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn escapes_begin_lines() {
        for (pieces, expected) in [
            (&["~."][..], "<.>"),
            (&["~", "."], "<.>"),
            (&["x~."], "x~."),
            (&["x\r~.y"], "x\r<.>y"),
            (&["x\n~?~?~."], "x\n<?><?><.>"),
            (&["~~."], "~."),
            (&["~~", "~."], "~~."),
            (&["~x~."], "~x~."),
            (&["~\r~."], "~\r<.>"),
            (&["ls ~\r", "\r~?"], "ls ~\r\r<?>"),
        ] {
            assert_eq!(typed(pieces), expected, "{pieces:?}");
        }
    }
}
