//! Words of the language.

use crate::source::Span;

/// A token, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Keyword(Keyword),
    /// A bare word that is no keyword.
    Word(String),
    /// A quoted string.
    Quoted(String),
    Number(i64),
    OpenBrace,
    CloseBrace,
    Comma,
    Equals,
    Newline,
    /// A character that means nothing.
    Other(char),
    /// The rest of a line after an error that has been reported.
    Invalid,
}

macro_rules! keywords {
    ($($variant:ident $text:literal),* $(,)?) => {
        /// Words that are no strings unless they are quoted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Keyword { $($variant),* }

        impl Keyword {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The keyword that is exactly `word`.
            pub(crate) fn from_word(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

keywords! {
    // vmd's, with the ones that have no meaning (any more).
    Add "add", Agentx "agentx", Allow "allow", Boot "boot", Cdrom "cdrom", Context "context", Cpus "cpus", Delay "delay",
    Device "device", Disable "disable", Disk "disk", Down "down", Enable "enable", Format "format", Group "group", Id "id",
    Include "include", Inet6 "inet6", Instance "instance", Interface "interface", Interfaces "interfaces", Lladdr "lladdr",
    Local "local", Locked "locked", Memory "memory", Net "net", Owner "owner", Parallel "parallel", Path "path",
    Prefix "prefix", Rdomain "rdomain", Sev "sev", Seves "seves", Size "size", Socket "socket", Staggered "staggered",
    Start "start", Switch "switch", Up "up", Vm "vm",
    // Stockade's own.
    All "all", Cmdline "cmdline", Cpu "cpu", Default "default", Disks "disks", Initramfs "initramfs", Leave "leave", Limit "limit",
    Ops "ops", Permitted "permitted", Processes "processes", Quota "quota", Rate "rate", Readonly "readonly",
    Reserve "reserve", Shutdown "shutdown", Status "status", Stop "stop", Timeout "timeout", Visible "visible", Vms "vms",
    Vsock "vsock",
}

impl Keyword {
    /// Whether it starts statements outside of blocks and nothing else: whoever finds it in a block misses a brace.
    pub(crate) fn is_top_level(self) -> bool {
        matches!(
            self,
            Self::Vm
                | Self::Include
                | Self::Quota
                | Self::Socket
                | Self::Staggered
                | Self::Agentx
                | Self::Status
                | Self::Reserve
                | Self::Shutdown
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_themselves_and_documented_with_an_example() {
        for keyword in Keyword::ALL {
            assert_eq!(Keyword::from_word(keyword.as_str()), Some(*keyword));
        }
        let documentation = include_str!("../../vm.conf.md");
        let examples = concat!(include_str!("../../examples/vm.conf"), include_str!("../../examples/tenants.conf"));
        let words = |text: &'static str| text.split(|c: char| !c.is_ascii_alphanumeric());
        for keyword in Keyword::ALL {
            let word = keyword.as_str();
            assert!(words(documentation).any(|other| other == word), "{word}");
            let has_no_example = matches!(word, "add" | "id" | "size" | "permitted");
            assert!(has_no_example || words(examples).any(|other| other == word), "{word}");
        }
        assert_eq!(Keyword::from_word("VM"), None);
        assert_eq!(Keyword::from_word("kernel"), None);
    }
}
