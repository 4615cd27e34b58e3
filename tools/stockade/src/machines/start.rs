//! `stockade start`.

use stockade_api::ErrorCode;
use stockade_api::request::{NewDisk, NewVm};
use stockade_client::Client;

use super::output::{Outcome, Output};
use super::{absolute, unless_done};
use crate::arguments::StartArguments;
use crate::failure::Failure;

/// Starts one that is known, or one that the options describe.
pub async fn start(arguments: &StartArguments, client: &Client, output: Output) -> Outcome {
    let started = if arguments.new.is_any() {
        client.create(&definition(arguments)?).await
    } else {
        client.start(&arguments.vm).await
    };
    let vm = started.map_err(|error| unless_done(error, ErrorCode::AlreadyRunning))?;
    output.show(&vm, || format!("started vm {} ({}) successfully", vm.id, vm.name))
}

fn definition(arguments: &StartArguments) -> Result<NewVm, Failure> {
    let new = &arguments.new;
    let path = |path: &std::path::PathBuf| absolute(path);
    let disks = new.disks.iter().map(|disk| Ok(NewDisk { path: absolute(&disk.path)?, read_only: disk.read_only }));
    Ok(NewVm {
        name: arguments.vm.to_string(),
        template: new.template.clone(),
        cpus: new.cpus,
        memory_mib: new.memory,
        kernel: new.kernel.as_ref().map(path).transpose()?,
        initramfs: new.initramfs.as_ref().map(path).transpose()?,
        command_line: new.command_line.clone(),
        boot_device: new.boot_device,
        disks: disks.collect::<Result<_, Failure>>()?,
        cdrom: new.cdrom.as_ref().map(path).transpose()?,
        interfaces: new.interfaces.0.clone(),
        owner: None,
        ends_on_reset: new.ends_on_reset,
    })
}
