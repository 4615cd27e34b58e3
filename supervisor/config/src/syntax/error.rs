//! What to say about tokens that don't fit.

use chumsky::error::{Rich, RichPattern};

use crate::diagnostic::{Diagnostic, closest};
use crate::lexer::{Keyword, Kind, Token};

/// Words of other languages and other times, and what they are here.
const MEANT: &[(&str, &str)] = &[
    ("add", "interface"),
    ("kernel", "boot"),
    ("bios", "boot"),
    ("vcpus", "cpus"),
    ("cpu", "cpus"),
    ("mem", "memory"),
    ("ram", "memory"),
    ("append", "cmdline"),
    ("args", "cmdline"),
    ("initrd", "initramfs"),
    ("ramdisk", "initramfs"),
    ("drive", "disk"),
    ("hd", "disk"),
    ("iso", "cdrom"),
    ("nic", "interface"),
    ("bridge", "switch"),
    ("mac", "lladdr"),
    ("vrf", "rdomain"),
    ("ro", "readonly"),
    ("user", "owner"),
    ("size", "memory"),
];

/// More alternatives than this are not worth reading.
const MAX_LISTED: usize = 12;

/// What `error` means, unless it has been reported already.
pub(super) fn diagnostic(error: &Rich<'_, Token>, tokens: &[Token]) -> Option<Diagnostic> {
    let found = tokens.get(error.span().start);
    // A string that nobody closed has taken everything up to the end.
    let is_cut_off = found.is_none() && matches!(tokens, [.., Token { kind: Kind::Invalid, .. }, _]);
    if is_cut_off || found.is_some_and(|token| token.kind == Kind::Invalid) {
        return None;
    }
    let span = found.or(tokens.last())?.span;
    let mut expected: Vec<String> = error.expected().filter_map(describe).collect();
    // The end of a line is possible nearly everywhere.
    if expected.len() > 2 {
        expected.retain(|label| label != "end of line");
    }
    expected.sort_unstable();
    expected.dedup();
    let what = found.map_or("end of file".to_owned(), |token| token.kind.describe());
    let mut diagnostic = Diagnostic::error(span, format!("syntax error: unexpected {what}"));
    diagnostic.help = help(found, &expected);
    let is_clear = expected.len() > MAX_LISTED && diagnostic.help.is_some();
    if !expected.is_empty() && !is_clear {
        diagnostic = diagnostic.label(format!("expected {}", list(&expected)));
    }
    Some(diagnostic)
}

fn describe(pattern: &RichPattern<'_, Token>) -> Option<String> {
    match pattern {
        RichPattern::Label(label) => Some(label.to_string()),
        RichPattern::EndOfInput => Some("end of file".to_owned()),
        _ => None,
    }
}

fn list(expected: &[String]) -> String {
    match expected {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if expected.len() <= MAX_LISTED => format!("{} or {last}", first.join(", ")),
        _ => format!("one of {}", expected.join(", ")),
    }
}

fn help(found: Option<&Token>, expected: &[String]) -> Option<String> {
    let expects = |word: &str| expected.iter().any(|expected| expected == word);
    let word = match &found?.kind {
        Kind::Word(word) => word.as_str(),
        Kind::Quoted(word) if expects(word) => return Some(format!("keywords are not quoted: write {word}")),
        Kind::Keyword(keyword) => {
            if keyword.is_top_level() && expects("'}'") {
                return Some("is a '}' missing above?".to_owned());
            }
            if expects("a string") && !expected.iter().any(|label| Keyword::from_word(label).is_some()) {
                return Some(format!("'{0}' is a keyword; as a string, write \"{0}\"", keyword.as_str()));
            }
            keyword.as_str()
        }
        Kind::Number(number) if expects("a string") => return Some(format!("write \"{number}\"")),
        Kind::Other('\r') => return Some("lines end with a newline alone; convert the file".to_owned()),
        Kind::Other('$') => return Some("macros are not expanded in the value of a macro".to_owned()),
        Kind::Other(_) if expects("a string") => return Some("put it into quotes".to_owned()),
        Kind::Newline if expects("'{'") => return Some("the '{' stands on the same line".to_owned()),
        Kind::CloseBrace if expects("end of line") => return Some("put the '}' on a line of its own".to_owned()),
        Kind::CloseBrace => return Some("a block has at least one option".to_owned()),
        _ => return None,
    };
    let meant = MEANT.iter().find(|(other, _)| *other == word).map(|(_, meant)| *meant).filter(|meant| expects(meant));
    let meant = meant.or_else(|| {
        closest(word, expected.iter().map(String::as_str).filter(|word| Keyword::from_word(word).is_some()))
    });
    meant.map(|meant| format!("did you mean '{meant}'?"))
}
