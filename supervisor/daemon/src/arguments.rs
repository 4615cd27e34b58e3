//! The command line: vmd's, and where everything is.

use std::path::PathBuf;

use clap::Parser;
use stockade_config::{DEFAULT_PATH, Input, Macro};

use crate::paths::Paths;

/// Keeps virtual machines, as vm.conf says.
#[derive(Debug, Clone, Parser)]
#[command(name = "stockaded", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// Define a macro, as if vm.conf began with it
    #[arg(short = 'D', value_name = "NAME=VALUE")]
    pub macros: Vec<Macro>,
    /// Log as to a terminal, even to a service manager; the daemon stays in the foreground in any case
    #[arg(short = 'd')]
    pub foreground: bool,
    /// The configuration
    #[arg(short = 'f', value_name = "FILE", default_value = DEFAULT_PATH)]
    pub file: PathBuf,
    /// Check the configuration, and end
    #[arg(short = 'n')]
    pub check: bool,
    /// Log more
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Folder of what is gone with the next boot: jails, sockets, what runs
    #[arg(long, value_name = "FOLDER", default_value = "/run/stockade")]
    pub run_directory: PathBuf,
    /// Folder of what stays: the numbers of virtual machines
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/stockade")]
    pub state_directory: PathBuf,
    /// Folder with Stockade's other programs and the default guest; without it, where this program is, or /usr/lib/stockade
    #[arg(long, value_name = "FOLDER")]
    pub binaries: Option<PathBuf>,
    /// What this process is, if not the parent
    #[arg(long, hide = true)]
    pub role: Option<String>,
    /// Whether standard error is the journal
    #[arg(long, hide = true)]
    pub journal: bool,
    /// An empty folder
    #[arg(long, hide = true)]
    pub empty: Option<PathBuf>,
}

impl Arguments {
    /// Which configuration is read.
    pub fn configuration(&self) -> Input {
        Input { path: self.file.clone(), macros: self.macros.clone() }
    }

    /// Where everything is.
    pub fn paths(&self) -> Paths {
        Paths { run: self.run_directory.clone(), state: self.state_directory.clone() }
    }
}
