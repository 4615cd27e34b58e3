//! The process: from its arguments to its exit code.
//!
//! The order matters: descriptors are taken over, a jail is confirmed to be there, the API's thread starts and confines itself,
//! the main thread confines itself, and only then is a byte read that a client or a file supplies.

use std::fmt::Display;

use nix::sys::prctl::set_dumpable;
use stockade_confinement::{Expectation, Mismatch};
use stockade_devices::legacy::boot_timer::Timestamp;
use stockade_vmm_api::event::EventKind;
use stockade_vmm_api::exit::ExitReason;

use crate::api::{self, Api};
use crate::cli::{self, Arguments};
use crate::config_file::{self, Origin};
use crate::controller::{ControlError, Controller};
use crate::descriptors::{Descriptors, EVENTS};
use crate::events::Events;
use crate::logger;
use crate::request;
use crate::resources::Resources;
use crate::vm::StartOptions;

/// Exit codes of what fails before and beside the guest, as Firecracker's.
mod code {
    pub(super) const FAILURE: u8 = 1;
    pub(super) const BAD_CONFIGURATION: u8 = 152;
    pub(super) const BAD_ARGUMENTS: u8 = 153;
}

/// Why the process fails, and its exit code.
#[derive(Debug)]
pub struct Failure {
    /// What, and the remedy.
    pub error: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    fn with(code: u8) -> impl Fn(&dyn Display) -> Self {
        move |error| Self { error: error.to_string(), code }
    }
}

/// Runs a VM to the end of its guest.
///
/// # Errors
/// If there is no guest, or it can't go on.
pub fn run(arguments: Arguments, start: Timestamp) -> Result<ExitReason, Failure> {
    logger::start(&arguments.id);
    let mut descriptors = Descriptors::inherit(arguments.descriptors, arguments.snapshot_files)
        .map_err(|error| Failure::with(code::BAD_ARGUMENTS)(&error))?;
    let mut events = Events::new(descriptors.take(EVENTS));
    let failed = |events: &mut Events, failure: Failure| {
        events.emit(EventKind::Failed { message: failure.error.clone() });
        failure
    };
    if let Err(error) = logger::configure(&arguments.logger, &descriptors) {
        return Err(failed(&mut events, Failure::with(code::BAD_ARGUMENTS)(&format_args!("--log-path: {error}"))));
    }
    if let Some(expected) = &arguments.confinement
        && let Err(error) = confirm(expected)
    {
        return Err(failed(&mut events, Failure::with(code::FAILURE)(&error)));
    }
    log::info!("Running {}", cli::own_version());

    let (asker, answerer) = match request::channel() {
        Ok(channel) => channel,
        Err(error) => return Err(failed(&mut events, Failure::with(code::FAILURE)(&error))),
    };
    // Removed at the end of this function, whatever happens.
    let mut _socket_path = None;
    let mut api = None;
    if let Some(path) = &arguments.api_socket {
        let served = api::listen(path, &mut descriptors).and_then(|(listener, socket_path)| {
            _socket_path = socket_path;
            log::info!("Listening on API socket ({path:?}).");
            Api::serve(listener, arguments.body_max_bytes, asker, arguments.filters)
        });
        match served {
            Ok(server) => api = Some(server),
            Err(error) => return Err(failed(&mut events, Failure::with(code::FAILURE)(&error))),
        }
    }
    if let Err(error) = arguments.filters.pledge(descriptors.role_to_configure()) {
        return Err(failed(&mut events, Failure::with(code::FAILURE)(&error)));
    }
    events.emit(EventKind::Launched);

    let mut controller = Controller {
        id: arguments.id,
        resources: Resources::default(),
        descriptors,
        events,
        answerer,
        options: StartOptions { boot_timer: arguments.boot_timer.then_some(start), filters: arguments.filters },
        started: None,
    };
    let ended = control(&mut controller, arguments.config_file.as_deref())
        .map_err(|failure| failed(&mut controller.events, failure));
    // With the controller goes the other end of a question that the API's thread may be waiting with.
    drop(controller);
    if let Some(api) = api {
        api.finish();
    }
    ended
}

/// Makes sure that this process is in the jail that its jailer reported, and that nobody of its user can look into it.
fn confirm(expected: &Expectation) -> Result<(), NotConfined> {
    set_dumpable(false).map_err(NotConfined::Dumpable)?;
    Ok(expected.confirm()?)
}

/// This process is not confined as its jailer says.
#[derive(Debug, thiserror::Error)]
enum NotConfined {
    #[error("forbid to look into this process: {0}")]
    Dumpable(nix::Error),
    #[error("refused to run: {0}")]
    Mismatch(#[from] Mismatch),
}

fn control(controller: &mut Controller, config_file: Option<&str>) -> Result<ExitReason, Failure> {
    let vm = match config_file {
        Some(path) => {
            let origin = config_file::apply(path, &mut controller.resources, &mut controller.descriptors)
                .map_err(|error| Failure::with(code::BAD_CONFIGURATION)(&error))?;
            let started = match &origin {
                Origin::Boot => controller.start(),
                Origin::Snapshot(load) => controller.load(load).map_err(ControlError::Load),
            };
            started.map_err(|error| match error {
                ControlError::Start(_) => Failure::with(code::BAD_CONFIGURATION)(&error),
                _ => Failure::with(code::FAILURE)(&error),
            })?
        }
        None => controller.configure().map_err(|error| Failure::with(code::FAILURE)(&error))?,
    };
    let end = controller.run(vm).map_err(|error| Failure::with(code::FAILURE)(&error))?;
    log::info!("the guest ended: {}", end.message);
    controller.events.emit(EventKind::Ended { reason: end.reason, message: end.message });
    Ok(end.reason)
}
