//! `stockade-agent`: PID 1 of the default guest, in its initramfs.
//!
//! - I start as the first process of a virtual machine, as root, with everything in it in my hands; the machine is the jail.
//! - I mount what commands expect, connect to the host, and do what it asks for.
//! - I power the machine off when the host says so, when the host is gone, and when I can't go on. Should I die, the kernel
//!   panics, which the host sees.

#![forbid(unsafe_code)]

use stockade_agent::{Agent, Orphans, ServeError, console, system, vsock};

fn main() {
    if std::process::id() != 1 {
        console::say("it is to be the first process of a guest, /init in its initramfs");
        std::process::exit(1);
    }
    if let Err(error) = run() {
        report(&error);
    }
    let error = system::power_off();
    report(&error);
    // The kernel panics now, which is the last way out.
    std::process::exit(1);
}

/// What ends a guest that can't go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    System(#[from] system::SystemError),
    #[error("watch processes")]
    Orphans(#[source] std::io::Error),
    #[error(transparent)]
    Vsock(#[from] vsock::VsockError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

fn run() -> Result<(), Error> {
    system::start()?;
    let orphans = Orphans::adopt().map_err(Error::Orphans)?;
    let listener = vsock::listen()?;
    let host = vsock::connect()?;
    Agent::new(system::prepare)
        .with_renewal(system::renew, reconnect)
        .with_orphans(orphans)
        .with_listener(listener)
        .serve(host)?;
    Ok(())
}

fn reconnect() -> Result<std::os::fd::OwnedFd, String> {
    vsock::connect().map_err(|error| error.to_string())
}

fn report(error: &dyn std::error::Error) {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line = format!("{line}: {error}");
        source = error.source();
    }
    console::say(line);
}
