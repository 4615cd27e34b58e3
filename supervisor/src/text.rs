//! Text for people, made of what others wrote.

use std::error::Error;

/// Most characters of somebody else's text in a message.
const MAX_CHARACTERS: usize = 1024;

/// `text` fit for a terminal: bounded, and without control characters.
pub fn printable(text: &str) -> String {
    let safe = |letter: char| if is_unsafe(letter) { '\u{fffd}' } else { letter };
    text.trim_end().chars().take(MAX_CHARACTERS).map(safe).collect()
}

/// Whether a character does something to a terminal instead of being shown.
pub fn is_unsafe(letter: char) -> bool {
    letter.is_control() || is_formatting(letter)
}

/// Characters that change how the text around them is shown (Unicode annex 9).
fn is_formatting(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An error and what caused it, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_does_nothing_to_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\rc\u{9b}31m\u{202e}d\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}31m\u{fffd}d");
        assert_eq!(printable(&"ä".repeat(5000)).chars().count(), MAX_CHARACTERS);
    }

    #[test]
    fn chains_are_one_line() {
        let error = crate::session::SessionError::Socket(std::io::Error::other("cause"));
        assert_eq!(chain(&error), "talk to the guest's agent: cause");
    }
}
