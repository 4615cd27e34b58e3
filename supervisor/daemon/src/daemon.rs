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
use tokio::sync::{oneshot, watch};

use crate::arguments::Arguments;
use crate::confine;
use crate::consoles::Consoles;
use crate::control::{self, parent::Reception};
use crate::executor::{Count, Executor};
use crate::machine::{Agents, Workshop};
use crate::manager;
use crate::net::{self, parent::Watcher};
use crate::roles::keeper::keep;
use crate::store::Store;

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
        let (orders, ordered) = unbounded_channel();
        let mut executor =
            Executor::new(workshop, consoles, input, config, answer, orders).map_err(|error| chain(&error))?;
        let count = executor.count();
        log::info!("{}", *count.borrow());
        let inputs = executor.inputs();
        let (serves, served) = oneshot::channel();
        let ready = move || {
            let _ = serves.send(());
        };
        let watcher = Watcher::new(ordered, inputs.clone());
        let reception = Reception::new(listener, told, inputs, answered, ready);
        let adopted = executor.adopted();
        tokio::select! {
            result = work(&mut executor) => result.map_err(|error| format!("wait for signals: {error}")),
            () = keep(&control::ROLE, &paths, reception) => Ok(()),
            () = keep(&net::ROLE, &paths, watcher) => Ok(()),
            () = report(adopted, served, count) => Ok(()),
        }
    })?;
    let _ = std::fs::remove_file(paths.socket());
    log::info!("the daemon ends");
    // Machines that are left run on, and whoever blocks is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Works, and does what signals say: hang up to read the configuration again, terminate and interrupt to end, and to end
/// guests at once when they come again.
async fn work(executor: &mut Executor) -> io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            () = executor.run() => return Ok(()),
            _ = hang_up.recv() => reload(executor),
            _ = terminate.recv() => end(executor),
            _ = interrupt.recv() => end(executor),
        }
    }
}

fn reload(executor: &mut Executor) {
    manager::reloading();
    match executor.reload() {
        Ok(()) => {
            log::info!("the configuration was read again");
            manager::reloaded(Ok(*executor.count().borrow()));
        }
        Err(rejected) => {
            let rejected = rejected.to_string();
            log::error!("the configuration can't be used, and nothing was changed: {rejected}");
            manager::reloaded(Err(&rejected));
        }
    }
}

fn end(executor: &mut Executor) {
    let (guests, longest_ms) = executor.shut_down();
    manager::stopping(guests, longest_ms);
    if guests > 0 {
        log::info!("{guests} guests have to end first, the last of them in {longest_ms} ms");
    }
}

/// Tells the service manager when the daemon is ready, and from then on how many virtual machines there are.
async fn report(adopted: impl Future<Output = ()>, served: oneshot::Receiver<()>, mut count: watch::Receiver<Count>) {
    adopted.await;
    if served.await.is_ok() {
        manager::ready(*count.borrow_and_update());
        while count.changed().await.is_ok() {
            manager::status(*count.borrow_and_update());
        }
    }
    std::future::pending().await
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
