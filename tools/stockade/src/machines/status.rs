//! `stockade status` and `stockade ps`.

use stockade_api::{ErrorCode, VmSummary};
use stockade_client::Client;
use stockade_supervisor::text::printable;

use super::output::{Outcome, Output, width};
use super::table;
use super::words::{Names, age, since};
use crate::arguments::{PsArguments, StatusArguments};
use crate::failure::{Failure, exit};

/// Shows all, or one.
pub async fn status(arguments: &StatusArguments, client: &Client, output: Output) -> Outcome {
    let Some(reference) = &arguments.vm else {
        return show(list(client, arguments.running).await?, output);
    };
    let vm = client.show(reference).await?;
    if arguments.running && !vm.state.is_live() {
        let message = format!("{} is {}", vm.name, vm.state);
        return Err(Failure::new(exit::IN_THE_WAY, ErrorCode::NotRunning.name(), message, "leave out --running"));
    }
    let past = past(&vm);
    show(vec![vm], output)?;
    if output.is_json() { Ok(()) } else { output.text(&past) }
}

/// Shows what runs, or all.
pub async fn ps(arguments: &PsArguments, client: &Client, output: Output) -> Outcome {
    show(list(client, !arguments.all).await?, output)
}

/// What runs first, then the rest, each in the order of their numbers.
async fn list(client: &Client, running: bool) -> Result<Vec<VmSummary>, Failure> {
    let mut vms = client.list().await?;
    vms.retain(|vm| !running || vm.state.is_live());
    vms.sort_by_key(|vm| (!vm.state.is_live(), vm.id));
    Ok(vms)
}

fn show(vms: Vec<VmSummary>, output: Output) -> Outcome {
    if output.is_json() { output.document(&vms) } else { output.text(&table::render(&vms, &Names::read(), width())) }
}

/// What there is to say of a virtual machine's past: nothing, or a line each.
fn past(vm: &VmSummary) -> String {
    let ended = vm.last_exit.as_ref().map(|ended| {
        let ago = age(since(ended.at_ms));
        format!("last end, {ago} ago: {}\n", printable(&ended.message))
    });
    let error = vm.last_error.as_ref().map(|error| format!("last start failed: {}\n", printable(error)));
    [ended, error].into_iter().flatten().collect()
}
