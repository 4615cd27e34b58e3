use super::files::kinds;
use super::{Keyword, Kind, Macro};
use crate::limits::MAX_TOKEN_BYTES;

fn word(text: &str) -> Kind {
    Kind::Word(text.to_owned())
}

fn quoted(text: &str) -> Kind {
    Kind::Quoted(text.to_owned())
}

/// Tokens of one line that has no error.
fn line(text: &str) -> Vec<Kind> {
    let (mut kinds, messages) = kinds(text, &[]);
    assert_eq!(messages, Vec::<String>::new(), "{text}");
    assert_eq!(kinds.pop(), Some(Kind::Newline), "{text}");
    kinds
}

#[test]
fn words_and_keywords() {
    assert_eq!(
        line("vm VM \"vm\" 'vm' vms"),
        [Kind::Keyword(Keyword::Vm), word("VM"), quoted("vm"), quoted("vm"), Kind::Keyword(Keyword::Vms)]
    );
    assert_eq!(
        line("/a/b.c:d _x :wheel a@b;c\"d$e'f"),
        [word("/a/b.c:d"), word("_x"), word(":wheel"), word("a@b;c\"d$e'f")]
    );
    assert_eq!(
        line("a{b}c,d"),
        [word("a"), Kind::OpenBrace, word("b"), Kind::CloseBrace, word("c"), Kind::Comma, word("d")]
    );
    assert_eq!(line("a(b!c"), [word("a"), Kind::Other('('), word("b"), Kind::Other('!'), word("c")]);
    assert_eq!(line("-a .b ä"), [Kind::Other('-'), word("a"), Kind::Other('.'), word("b"), Kind::Other('ä')]);
}

#[test]
fn numbers() {
    assert_eq!(
        line("1 -2 3,4}5"),
        [
            Kind::Number(1),
            Kind::Number(-2),
            Kind::Number(3),
            Kind::Comma,
            Kind::Number(4),
            Kind::CloseBrace,
            Kind::Number(5)
        ]
    );
    assert_eq!(line("10/8 3)"), [Kind::Number(10), word("/8"), Kind::Number(3), Kind::Other(')')]);
    assert_eq!(line("512M 10.0.0.0/8 0x10 5#c"), [word("512M"), word("10.0.0.0/8"), word("0x10"), word("5")]);
    assert_eq!(line("-5x"), [Kind::Other('-'), word("5x")]);
    assert_eq!(line("1000:100"), [word("1000:100")]);
    let (_, messages) = kinds("a 9223372036854775808\nb -9223372036854775809", &[]);
    assert_eq!(
        messages,
        [
            "vm.conf:1:3: \"9223372036854775808\" invalid number: too large",
            "vm.conf:2:3: \"-9223372036854775809\" invalid number: too small"
        ]
    );
}

#[test]
fn quotes() {
    assert_eq!(line(r#""a 'b' # { $x" 'c "d"'"#), [quoted("a 'b' # { $x"), quoted("c \"d\"")]);
    assert_eq!(line("\"a\nb\\\nc\""), [quoted("abc")]);
    assert_eq!(line(r#""a\"b\ c\	d\n\'e""#), [quoted("a\"b c\td\\n\\'e")]);
}

#[test]
fn an_open_quote_is_an_error_where_it_opens() {
    let (_, messages) = kinds("x\n  disk \"abc\nvm", &[]);
    assert_eq!(messages, ["vm.conf:2:8: reached end of file while parsing quoted string"]);
}

#[test]
fn comments_and_joined_lines() {
    assert_eq!(line("a # vm $x \"\\\nb"), [word("a")]);
    assert_eq!(line("a\\\nb c \\\n  d"), [word("ab"), word("c"), word("d")]);
    assert_eq!(line("a\\b \\c"), [word("ab"), word("c")]);
    assert_eq!(line("a#b\n"), [word("a"), Kind::Newline]);
}

#[test]
fn macros_are_text() {
    assert_eq!(line("x = \"vm 'a b' 5\"\n$x"), [Kind::Keyword(Keyword::Vm), quoted("a b"), Kind::Number(5)]);
    assert_eq!(line("x = /var\n$x/vms $x"), [word("/var/vms"), word("/var")]);
    assert_eq!(line("x=\"a b\"\n$x$x"), [word("a"), word("b$x")]);
    assert_eq!(line("x=\"'a'\"\n$x$x"), [quoted("a"), quoted("a")]);
    assert_eq!(line("x = 5x\ny = $x\n\"$x\" $y$"), [quoted("$x"), word("5x$")]);
    // No recursion, and nothing that is no string.
    assert_eq!(line("x = '$x'\n$x"), [Kind::Other('$'), word("x")]);
    let (_, messages) = kinds("x = 5\nmemory = \"a\"\n\"a b\" = c\nx = y z\nx =\n$nope\n", &[]);
    assert_eq!(
        messages,
        [
            "vm.conf:1:5: syntax error: unexpected number 5",
            "vm.conf:2:1: syntax error: 'memory' is no name for a macro",
            "vm.conf:3:1: macro name cannot contain whitespace",
            "vm.conf:4:7: syntax error: unexpected 'z'",
            "vm.conf:5:4: syntax error: unexpected end of line",
            "vm.conf:6:1: macro 'nope' not defined",
        ]
    );
}

#[test]
fn macros_of_the_command_line_win() {
    let given = ["a=b=1".parse::<Macro>().unwrap(), "x=mine".parse().unwrap(), "x=again".parse().unwrap()];
    assert_eq!((given[0].name.as_str(), given[0].value.as_str()), ("a=b", "1"));
    assert!("nothing".parse::<Macro>().is_err());
    let (found, messages) = kinds("x = theirs\n$x\ny = 1a\ny = 2a\n$y", &given);
    assert_eq!(found, [word("mine"), Kind::Newline, word("2a"), Kind::Newline]);
    assert_eq!(messages, ["warning: macro 'a=b' not used"]);
    let (_, messages) = kinds("\n  y = 1a", &given[1..2]);
    assert_eq!(messages, ["warning: macro 'x' not used", "vm.conf:2:3: warning: macro 'y' not used"]);
}

#[test]
fn macros_are_not_defined_in_blocks() {
    let (found, messages) = kinds("vm {\nx = y\n}\n", &[]);
    assert_eq!(messages, Vec::<String>::new());
    assert!(found.contains(&Kind::Equals));
}

#[test]
fn long_strings() {
    for text in
        ["x".repeat(MAX_TOKEN_BYTES), format!("\"{}\"", "x".repeat(MAX_TOKEN_BYTES)), "1".repeat(MAX_TOKEN_BYTES)]
    {
        let (found, messages) = kinds(&format!("a {text}\nb"), &[]);
        assert_eq!(messages, ["vm.conf:1:3: string too long"]);
        assert_eq!(found, [word("a"), Kind::Invalid, Kind::Newline, word("b"), Kind::Newline]);
    }
    assert_eq!(line(&"x".repeat(MAX_TOKEN_BYTES - 1)).len(), 1);
}

#[test]
fn expansion_is_bounded() {
    let text = format!("x = \"{}\"\n{}", " ".repeat(8000), "$x\n".repeat(2000));
    let (_, messages) = kinds(&text, &[]);
    assert_eq!(messages.len(), 1);
    assert!(messages[0].ends_with("file too large: macros expand to more than 4194304 bytes"), "{messages:?}");
}
