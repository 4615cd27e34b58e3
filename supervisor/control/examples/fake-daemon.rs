//! Serves the control API of a daemon in memory on a unix socket, to try clients with.
//!
//! `fake-daemon SOCKET` defines `web` and `db`, and has guests power off a moment after somebody waits for them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use stockade_control::Limits;
use stockade_control::fake::{Server, Settings};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!("usage: fake-daemon SOCKET");
        return ExitCode::from(2);
    };
    let settings = Settings {
        guest_life: Some(Duration::from_millis(50)),
        configured: vec![("web".into(), 0), ("db".into(), 1000)],
        ..Settings::default()
    };
    let limits = Limits { events_time: Duration::from_millis(200), ..Limits::default() };
    match Server::start(&path, settings, limits).and_then(Server::join) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-daemon: serve {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
