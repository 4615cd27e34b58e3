//! The main thread's work: answers the API, first without a VM, then with one, and runs the VM to its end.
//!
//! ```text
//! configure --start--> run <--pause/resume--> stand still
//!      ^_____|           |_______________________|
//!    a start failed               end of the guest
//! ```

use std::sync::mpsc::RecvError;

use seccomp_filters::PledgeError;
use serde::Serialize;
use stockade_machine::{Clock, GuestEnd};
use stockade_vmm_api::FIRECRACKER_VERSION;
use stockade_vmm_api::event::EventKind;
use stockade_vmm_api::id::VmId;
use stockade_vmm_api::instance::{InstanceInfo, InstanceState, Version};
use stockade_vmm_api::machine_config::HugePages;
use stockade_vmm_api::snapshot::{LoadedPages, SnapshotCreate, SnapshotError, SnapshotLoad};
use stockade_vmm_api::vm_config::VmConfig;

use crate::descriptors::{Access, Descriptors, OpenError};
use crate::events::Events;
use crate::logger;
use crate::request::{Answer, Answerer, ApiRequest, Reply};
use crate::resources::{ResourceError, Resources};
use crate::snapshot::{SavedConfig, SavedVm, SnapshotFileError};
use crate::vm::{RunError, StartError, StartOptions, Vm};

const BEFORE_START: &str =
    "The requested operation is not supported before starting the microVM; send PUT /actions with InstanceStart first.";
const AFTER_START: &str =
    "The requested operation is not supported after starting the microVM; it has to come before InstanceStart.";

/// The main thread can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The API is gone, and there is no VM.
    #[error("the API thread ended before a VM was started")]
    NoApi(#[from] RecvError),
    /// A VM that was to start without being asked for.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A VM that was to come from a snapshot.
    #[error("Load snapshot error: {0}")]
    Load(#[from] LoadError),
    /// A VM that runs.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The filter.
    #[error(transparent)]
    Pledge(#[from] PledgeError),
}

/// A snapshot that no VM comes from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Something is there already. Clients match the text.
    #[error("Loading a microVM snapshot not allowed after configuring boot-specific resources.")]
    TooLate,
    /// What is not available.
    #[error(transparent)]
    Unavailable(#[from] SnapshotError),
    /// The state file.
    #[error("snapshot_path: {0}")]
    StateFile(#[source] OpenError),
    /// The memory file.
    #[error("mem_backend: {0}")]
    MemoryFile(#[source] OpenError),
    /// The content of the state file.
    #[error(transparent)]
    Content(#[from] SnapshotFileError),
    /// What the guest had.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// What the guest was.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The VM does not go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The filter.
    #[error(transparent)]
    Pledge(#[from] PledgeError),
}

/// All that the main thread has.
pub struct Controller {
    /// The VM's name.
    pub id: VmId,
    /// What the guest will have.
    pub resources: Resources,
    /// Where files come from.
    pub descriptors: Descriptors,
    /// Whom to tell.
    pub events: Events,
    /// Who asks.
    pub answerer: Answerer,
    /// How to start.
    pub options: StartOptions,
    /// What the guest has, once it runs and the resources are given up.
    pub started: Option<VmConfig>,
}

impl Controller {
    /// Answers requests until one starts the VM.
    ///
    /// # Errors
    /// If nobody can ask any more.
    pub fn configure(&mut self) -> Result<Vm, ControlError> {
        loop {
            let request = self.answerer.wait()?;
            if *request == ApiRequest::Start {
                match self.start() {
                    Ok(vm) => {
                        self.answerer.reply(Ok(Answer::Done));
                        return Ok(vm);
                    }
                    Err(ControlError::Start(error)) => {
                        self.answerer.reply(Err(format!("Start microvm error: {error}")));
                    }
                    Err(error) => return Err(error),
                }
            } else if let ApiRequest::LoadSnapshot(load) = &*request {
                match self.load(load) {
                    Ok(vm) => {
                        self.answerer.reply(Ok(Answer::Done));
                        return Ok(vm);
                    }
                    Err(error @ LoadError::TooLate) => {
                        self.answerer.reply(Err(format!("Load snapshot error: {error}")))
                    }
                    // What is half restored can't be had back, and so Firecracker ends here, too.
                    Err(error) => {
                        self.answerer.reply(Err(format!("Load snapshot error: {error}")));
                        return Err(error.into());
                    }
                }
            } else {
                let reply = self.reply_before_start(*request);
                self.answerer.reply(reply);
            }
        }
    }

    /// Starts the VM.
    ///
    /// # Errors
    /// [`ControlError::Start`] if it can't be built, in which case it may be tried again.
    pub fn start(&mut self) -> Result<Vm, ControlError> {
        let config = self.resources.describe();
        let mut vm =
            Vm::build(&mut self.resources, &self.descriptors, self.options, &mut self.events, self.answerer.event())?;
        self.options.filters.pledge(self.descriptors.role_to_run())?;
        vm.resume()?;
        self.events.emit(EventKind::Started);
        log::info!("the guest runs");
        // What the devices need of it they have: the rest is closed, and out of the reach of whoever takes this process over.
        self.resources = Resources::default();
        self.descriptors.close();
        self.started = Some(config);
        Ok(vm)
    }

    /// Restores a VM from a snapshot, and lets it run if it is to.
    ///
    /// # Errors
    /// [`LoadError::TooLate`] if something has been configured, and then all is as before; else the process is of no use.
    pub fn load(&mut self, load: &SnapshotLoad) -> Result<Vm, LoadError> {
        if !self.resources.are_untouched() {
            return Err(LoadError::TooLate);
        }
        let memory_path = load.validate()?;
        let state = self.descriptors.open(&load.snapshot_path, Access::Read).map_err(LoadError::StateFile)?;
        let memory = self.descriptors.open(memory_path, Access::Read).map_err(LoadError::MemoryFile)?;
        let saved = SavedVm::read(&state)?;
        let mut config = saved.config()?;
        config.machine_config.track_dirty_pages = false;
        if load.huge_pages == LoadedPages::None {
            config.machine_config.huge_pages = HugePages::None;
        }
        if let (Some(vsock), Some(other)) = (&mut config.vsock, &load.vsock_override) {
            vsock.uds_path.clone_from(&other.uds_path);
        }
        self.resources.restore(config, &mut self.descriptors)?;
        let described = self.resources.describe();
        let clock = if load.clock_realtime { Clock::Advances } else { Clock::Continues };
        let requests = self.answerer.event();
        let from = (&saved, &memory, clock);
        let events = &mut self.events;
        let mut vm = Vm::restore(&mut self.resources, from, &self.descriptors, self.options, events, requests)?;
        self.options.filters.pledge(self.descriptors.role_to_run())?;
        if load.resume_vm {
            vm.resume()?;
            self.events.emit(EventKind::Started);
        }
        log::info!("the guest is restored");
        self.resources = Resources::default();
        self.descriptors.close();
        self.started = Some(described);
        Ok(vm)
    }

    fn create_snapshot(&mut self, vm: &Vm, create: &SnapshotCreate) -> Reply {
        let failed = |error: &dyn std::fmt::Display| format!("Create snapshot error: {error}");
        create.validate().map_err(|error| failed(&error))?;
        if vm.state() != InstanceState::Paused {
            return Err(failed(
                &"Cannot save the microVM state: save/restore unavailable while running; send PATCH /vm with Paused first.",
            ));
        }
        let mut new = |field: &str, path: &str| {
            self.descriptors.create(path).map_err(|error| failed(&format_args!("{field}: {error}")))
        };
        let state = new("snapshot_path", &create.snapshot_path)?;
        let memory = new("mem_file_path", &create.mem_file_path)?;
        vm.save(&SavedConfig::from(&self.config()), &state, &memory).map_err(|error| failed(&error))?;
        Ok(Answer::Done)
    }

    /// Runs the VM to its end.
    ///
    /// # Errors
    /// If it can't go on.
    pub fn run(&mut self, mut vm: Vm) -> Result<GuestEnd, ControlError> {
        loop {
            if let Some(end) = vm.end() {
                vm.finish()?;
                return Ok(end);
            }
            let request = match vm.state() {
                InstanceState::Paused => Some(self.answerer.wait()?),
                _ => {
                    vm.turn()?;
                    self.answerer.take()
                }
            };
            if let Some(request) = request {
                let reply = self.reply_after_start(&mut vm, *request)?;
                self.answerer.reply(reply);
            }
        }
    }

    fn reply_before_start(&mut self, request: ApiRequest) -> Reply {
        let done = |result: Result<(), ResourceError>| result.map(|()| Answer::Done).map_err(|error| error.to_string());
        let resources = &mut self.resources;
        match request {
            ApiRequest::PutBootSource(config) => done(resources.set_boot_source(config, &self.descriptors)),
            ApiRequest::PutMachineConfig(config) => done(resources.set_machine(config)),
            ApiRequest::PatchMachineConfig(patch) => done(resources.patch_machine(&patch)),
            ApiRequest::PutDrive(config) => done(resources.set_drive(config, &self.descriptors)),
            ApiRequest::PutVsock(config) => done(resources.set_vsock(config, &mut self.descriptors)),
            ApiRequest::PutCpuConfig(template) => {
                resources.template = Some(template);
                Ok(Answer::Done)
            }
            ApiRequest::PutEntropy(config) => {
                resources.entropy = Some(config);
                Ok(Answer::Done)
            }
            ApiRequest::PutSerial(config) => {
                resources.serial = config;
                Ok(Answer::Done)
            }
            ApiRequest::PutLogger(settings) => {
                let logger_error = |error: OpenError| format!("Logger error: log_path: {error}");
                logger::configure(&settings, &self.descriptors).map(|()| Answer::Done).map_err(logger_error)
            }
            ApiRequest::FlushMetrics
            | ApiRequest::SendCtrlAltDel
            | ApiRequest::Pause
            | ApiRequest::Resume
            | ApiRequest::CreateSnapshot(_) => Err(BEFORE_START.to_owned()),
            // Handled by the caller.
            ApiRequest::Start | ApiRequest::LoadSnapshot(_) => Err(AFTER_START.to_owned()),
            ApiRequest::GetInstance
            | ApiRequest::GetVersion
            | ApiRequest::GetVmConfig
            | ApiRequest::GetMachineConfig => self.describe(&request, InstanceState::NotStarted),
        }
    }

    fn reply_after_start(&mut self, vm: &mut Vm, request: ApiRequest) -> Result<Reply, RunError> {
        Ok(match request {
            ApiRequest::Pause => {
                if vm.state() != InstanceState::Paused {
                    vm.pause()?;
                    self.events.emit(EventKind::Paused);
                }
                Ok(Answer::Done)
            }
            ApiRequest::Resume => {
                if vm.state() == InstanceState::Paused {
                    vm.resume()?;
                    self.events.emit(EventKind::Resumed);
                }
                Ok(Answer::Done)
            }
            ApiRequest::CreateSnapshot(create) => self.create_snapshot(vm, &create),
            ApiRequest::SendCtrlAltDel => {
                vm.press_ctrl_alt_del().map(|()| Answer::Done).map_err(|error| error.to_string())
            }
            // There is no metrics file that could be set, so nothing is behind.
            ApiRequest::FlushMetrics => Ok(Answer::Done),
            ApiRequest::GetInstance
            | ApiRequest::GetVersion
            | ApiRequest::GetVmConfig
            | ApiRequest::GetMachineConfig => self.describe(&request, vm.state()),
            _ => Err(AFTER_START.to_owned()),
        })
    }

    fn describe(&self, request: &ApiRequest, state: InstanceState) -> Reply {
        match request {
            ApiRequest::GetInstance => json(&InstanceInfo {
                id: self.id.to_string(),
                state,
                vmm_version: FIRECRACKER_VERSION.to_owned(),
                app_name: "Firecracker".to_owned(),
            }),
            ApiRequest::GetVersion => json(&Version { firecracker_version: FIRECRACKER_VERSION.to_owned() }),
            ApiRequest::GetMachineConfig => json(&self.config().machine_config),
            _ => json(&self.config()),
        }
    }

    fn config(&self) -> VmConfig {
        self.started.clone().unwrap_or_else(|| self.resources.describe())
    }
}

fn json(value: &impl Serialize) -> Reply {
    serde_json::to_vec(value).map(Answer::Json).map_err(|error| error.to_string())
}
