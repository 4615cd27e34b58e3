//! The parent: comes back to what is there, serves, and ends.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use stockade_config::Config;
use stockade_config::host::RealHost;
use stockade_supervisor::inspection::ROLES;
use stockade_supervisor::installation::Installation;
use stockade_supervisor::machine::state::State;
use stockade_supervisor::text::chain;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;

use crate::arguments::Arguments;
use crate::confine;
use crate::consoles::Consoles;
use crate::control;
use crate::control::parent::Reception;
use crate::executor::Executor;
use crate::machine::{Agents, Workshop};
use crate::roles::keeper::keep;
use crate::store::Store;
use crate::table::Input;

/// Runs the daemon until it is told to end.
///
/// # Errors
/// What it can't start without, in words.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can keep virtual machines for others; use sudo".to_owned());
    }
    let input = arguments.configuration();
    let loaded = stockade_config::load(&RealHost, &input).map_err(|rejected| rejected.to_string())?;
    if !loaded.report.diagnostics().is_empty() {
        log::warn!("{}", loaded.report);
    }
    let config = loaded.config;
    let installation = match &arguments.binaries {
        Some(folder) => Installation::at(folder.clone()),
        None => Installation::find().map_err(|error| chain(&error))?,
    };
    let paths = arguments.paths();
    let store = Store::open(paths.clone()).map_err(|error| chain(&error))?;
    let jails = State::of_root(paths.run.clone());
    jails.prepare().map_err(|error| chain(&error))?;
    confine::enter(&paths.run.join(ROLES))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
    runtime.block_on(async {
        let listener = listen(&paths.socket(), &config)
            .map_err(|error| format!("listen at {}: {error}", paths.socket().display()))?;
        let (answers, answered) = unbounded_channel();
        let workshop = Workshop { store, installation, jails, agents: Agents::default() };
        let answer = Box::new(move |outgoing| drop(answers.send(outgoing)));
        let consoles = Consoles::new().map_err(|error| format!("watch consoles: {error}"))?;
        let told = consoles.listener().map_err(|error| format!("watch consoles: {error}"))?;
        let mut executor = Executor::new(workshop, consoles, input, config, answer).map_err(|error| chain(&error))?;
        let (known, running) = executor.count();
        log::info!("{known} virtual machines, of which {running} run");
        let inputs = executor.inputs();
        let control = keep(&control::ROLE, &paths, Reception::new(listener, told, inputs, answered, notify_ready));
        tokio::pin!(control);
        let worked = work(&mut executor);
        tokio::select! {
            result = worked => result.map_err(|error| format!("wait for signals: {error}")),
            () = &mut control => Ok(()),
        }
    })?;
    let _ = std::fs::remove_file(paths.socket());
    log::info!("the daemon ends");
    // Machines that are left run on, and whoever blocks is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Works, and does what signals say: hang up to read the configuration again, terminate and interrupt to end.
async fn work(executor: &mut Executor) -> io::Result<()> {
    let inputs = executor.inputs();
    let mut hang_up = signal(SignalKind::hangup())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            () = executor.run() => return Ok(()),
            _ = hang_up.recv() => executor.reload(),
            _ = terminate.recv() => end(&inputs),
            _ = interrupt.recv() => end(&inputs),
        }
    }
}

fn end(inputs: &tokio::sync::mpsc::UnboundedSender<Input>) {
    notify(&[sd_notify::NotifyState::Stopping]);
    let _ = inputs.send(Input::ShutDown);
}

fn notify_ready() {
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Tells the service manager, if there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("tell the service manager: {error}");
    }
}

/// Listens at the control socket, in the place of the daemon before this one. Nobody can connect before it has its owner.
fn listen(path: &Path, config: &Config) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    for stale in [&new, path] {
        match std::fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&new)?;
    let owner = config.globals.socket_owner;
    chown(&new, Some(owner.uid), Some(owner.gid.unwrap_or(0)))?;
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o660))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}
