//! `stockade start`.

use std::pin::pin;
use std::time::Duration;

use stockade_api::ErrorCode;
use stockade_api::request::{NewDisk, NewVm};
use stockade_client::Client;
use stockade_client::console::{Following, Part, Typing};
use tokio::time::sleep;

use super::output::{Outcome, Output};
use super::{absolute, console, unless_done};
use crate::arguments::StartArguments;
use crate::failure::Failure;
use crate::terminal;

/// How often it is looked whether there is a new one already.
const LOOK: Duration = Duration::from_millis(5);

/// Starts one that is known, or one that the options describe.
pub async fn start(arguments: &StartArguments, client: &Client, output: Output) -> Outcome {
    if arguments.console && arguments.new.is_any() {
        return create_and_attend(arguments, client).await;
    }
    if arguments.console {
        // What was written before it starts is not of interest.
        let before = client.console_log(&arguments.vm, Part::Tail(0), Following::No).await?.cursor();
        let vm = client.start(&arguments.vm).await.map_err(|error| unless_done(error, ErrorCode::AlreadyRunning))?;
        return console::attend(client, &vm, Typing::Ask, before).await;
    }
    let started = if arguments.new.is_any() {
        client.create(&definition(arguments)?).await
    } else {
        client.start(&arguments.vm).await
    };
    let vm = started.map_err(|error| unless_done(error, ErrorCode::AlreadyRunning))?;
    output.show(&vm, || format!("started vm {} ({}) successfully", vm.id, vm.name))
}

/// Makes a new one, and attaches to its console as soon as there is one: what ends quickly is gone with its console.
async fn create_and_attend(arguments: &StartArguments, client: &Client) -> Outcome {
    let definition = definition(arguments)?;
    let mut created = pin!(client.create(&definition));
    // Not to that of another one with this name.
    if client.show(&arguments.vm).await.is_ok() {
        return created.await.map(drop).map_err(Failure::from);
    }
    let vm = loop {
        tokio::select! {
            created = &mut created => break created?,
            () = sleep(LOOK) => {
                if let Ok(vm) = client.show(&arguments.vm).await {
                    let mut attended = pin!(console::attend(client, &vm, Typing::Ask, 0));
                    return tokio::select! {
                        attended = &mut attended => created.await.map_err(Failure::from).and(attended),
                        created = &mut created => match created {
                            Ok(_) => attended.await,
                            Err(error) => {
                                terminal::restore();
                                Err(error.into())
                            }
                        },
                    };
                }
            }
        }
    };
    console::attend(client, &vm, Typing::Ask, 0).await
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
