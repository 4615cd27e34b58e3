//! `stockade generate`: man pages and shell completions, of the same definition that reads the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::chain;

use crate::arguments::{Arguments, GenerateArguments};
use crate::run::say;

/// Where each shell looks, below `/usr/share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/site-functions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

/// A file can't be written.
#[derive(Debug, thiserror::Error)]
#[error("write to {}", folder.display())]
struct GenerateError {
    folder: PathBuf,
    source: io::Error,
}

/// Writes everything below the folder that `arguments` name, and returns the exit code.
pub fn execute(arguments: &GenerateArguments) -> u8 {
    match generate(&arguments.directory) {
        Ok(()) => 0,
        Err(error) => {
            say(&chain(&error));
            Outcome::FAILED
        }
    }
}

fn generate(directory: &Path) -> Result<(), GenerateError> {
    let in_folder = |name: &str, write: &dyn Fn(&Path) -> io::Result<()>| {
        let folder = directory.join(name);
        let written = fs::create_dir_all(&folder).and_then(|()| write(&folder));
        written.map_err(|source| GenerateError { folder, source })
    };
    in_folder("man/man1", &|folder| clap_mangen::generate_to(definition(), folder))?;
    for (shell, name) in COMPLETIONS {
        in_folder(name, &|folder| generate_to(shell, &mut definition(), "stockade", folder).map(drop))?;
    }
    // Bash looks for the bare name of the command.
    in_folder("bash-completion/completions", &|folder| {
        fs::rename(folder.join("stockade.bash"), folder.join("stockade"))
    })
}

/// The command line as others see it: without what is hidden.
fn definition() -> Command {
    let whole = Arguments::command();
    let visible = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect::<Vec<_>>();
    let mut about = Command::new("stockade").version(env!("CARGO_PKG_VERSION"));
    if let Some(text) = whole.get_about() {
        about = about.about(text.clone());
    }
    if let Some(text) = whole.get_long_about() {
        about = about.long_about(text.clone());
    }
    about.subcommands(visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_its_page_and_every_shell_its_completion() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join("man/man1").join(name)).unwrap();
        let overview = page("stockade.1");
        let verbs: Vec<_> = Arguments::command().get_subcommands().cloned().collect();
        assert!(verbs.len() > 10);
        for verb in verbs.iter().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            let text = page(&format!("stockade-{name}.1"));
            assert!(text.contains("Examples"), "{name} has no examples");
            assert!(overview.contains(&format!("stockade\\-{name}(1)")), "{name} is not in {overview}");
            for option in verb.get_arguments().filter_map(|option| option.get_long()) {
                assert!(text.contains(&option.replace('-', "\\-")), "{name} does not explain --{option}");
            }
        }
        assert!(!folder.path().join("man/man1/stockade-generate.1").exists());
        for file in [
            "bash-completion/completions/stockade",
            "zsh/site-functions/_stockade",
            "fish/vendor_completions.d/stockade.fish",
        ] {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains("unpause") && text.contains("force"), "{file}");
            assert!(!text.contains("generate"), "{file}");
        }
        // It can be done again.
        generate(folder.path()).unwrap();
    }
}
