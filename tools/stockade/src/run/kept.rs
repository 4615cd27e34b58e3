//! `stockade run` with a virtual machine that the daemon keeps.
//!
//! The daemon opens the images with the caller's rights, starts the machine, and hands back the connection that the guest's agent
//! begins with; from there on all is as with a machine of one's own. The daemon ends the machine when that connection ends,
//! whatever becomes of this process.

use std::path::Path;

use stockade_api::request::{BootMode as NewBootMode, NewDisk, NewRun};
use stockade_api::{ErrorCode, StopMode, VmReference};
use stockade_client::{Client as Daemon, ClientError};
use stockade_jailer::violation::Violation;
use stockade_jailer::warden::LayerReport;
use stockade_supervisor::client::Client;
use stockade_supervisor::installation::Installation;
use stockade_supervisor::machine::MachineEnd;
use stockade_supervisor::phases::{Observer, PhaseClock, monotonic_us};
use stockade_supervisor::request::{Access, BootMode, RunRequest};
use stockade_supervisor::run::{Keeper, Run, RunError, run_kept};
use stockade_supervisor::text::printable;

use crate::failure::Failure;

/// Runs the command of `request` in a virtual machine that the daemon keeps for it.
pub async fn run(request: &RunRequest, daemon: &Daemon, client: &mut Client, observer: &mut dyn Observer) -> Run {
    let start = async || {
        let new = new_run(request)?;
        let agent = daemon.run(&new).await.map_err(refused)?;
        Ok((Kept { daemon: daemon.clone(), vm: VmReference::Name(new.name) }, agent))
    };
    run_kept(request, start, client, observer).await
}

/// A machine that the daemon keeps.
struct Kept {
    daemon: Daemon,
    vm: VmReference,
}

impl Keeper for Kept {
    async fn started(&mut self, _: &mut PhaseClock<'_>) -> Result<u64, MachineEnd> {
        // It does when the daemon says that it is there.
        Ok(monotonic_us())
    }

    async fn ended(&mut self) -> MachineEnd {
        MachineEnd::Told(match self.daemon.wait(&self.vm).await {
            Ok(Some(exit)) => format!("the virtual machine ended: {}", printable(&exit.message)),
            Ok(None) => "the virtual machine ended".to_owned(),
            Err(error) if is_gone(&error) => "the virtual machine was ended".to_owned(),
            Err(error) => printable(&Failure::from(error).text()),
        })
    }

    async fn remove(&mut self) -> Vec<String> {
        match self.daemon.stop(&self.vm, StopMode::Force).await {
            Err(error) if !is_gone(&error) => {
                vec![format!("maybe the virtual machine {}: {}", self.vm, printable(&Failure::from(error).text()))]
            }
            _ => Vec::new(),
        }
    }

    async fn console_tail(&self) -> Vec<String> {
        Vec::new()
    }

    /// `stockade inspect` shows it while it is there.
    fn confinement(&self) -> Vec<LayerReport> {
        Vec::new()
    }

    /// The daemon says it in words.
    fn violation(&self) -> Option<Violation> {
        None
    }
}

fn is_gone(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::NotRunning))
}

fn refused(error: ClientError) -> RunError {
    RunError::Request(printable(&Failure::from(error).text()))
}

/// A kernel of one's own takes the initial RAM disk of this Stockade, and the other way round.
fn images(request: &RunRequest) -> Result<(Option<String>, Option<String>), RunError> {
    let (kernel, initramfs) = match (&request.kernel, &request.initramfs) {
        (None, None) => return Ok((None, None)),
        (Some(kernel), Some(initramfs)) => (kernel.clone(), initramfs.clone()),
        (Some(kernel), None) => (kernel.clone(), Installation::find()?.initramfs()),
        (None, Some(initramfs)) => (Installation::find()?.kernel(), initramfs.clone()),
    };
    Ok((Some(absolute(&kernel)?), Some(absolute(&initramfs)?)))
}

fn new_run(request: &RunRequest) -> Result<NewRun, RunError> {
    let (kernel, initramfs) = images(request)?;
    let disk = |root: &stockade_supervisor::request::RootImage| {
        Ok::<_, RunError>(NewDisk { path: absolute(&root.path)?, read_only: root.access == Access::ReadOnly })
    };
    Ok(NewRun {
        name: request.name.to_string(),
        cpus: Some(request.cpus.get().into()),
        memory_mib: Some(request.memory.mib().into()),
        kernel,
        initramfs,
        disks: request.root.as_ref().map(disk).transpose()?.into_iter().collect(),
        boot: match request.boot {
            BootMode::IfNeeded => NewBootMode::IfNeeded,
            BootMode::Always => NewBootMode::Always,
        },
    })
}

fn absolute(path: &Path) -> Result<String, RunError> {
    crate::machines::absolute(path).map_err(|failure| RunError::Request(failure.text()))
}
