//! Virtual machines that clients define: root any, others instances of templates that let them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use stockade_api::request::{BootDevice as NewBootDevice, NewRun, NewVm};
use stockade_api::{Answer, Error, ErrorCode, VmId, VmState};
use stockade_config::model::{
    Boot, BootDevice, Definition, Disk, DiskAccess, DiskFormat, DiskRate, Interface, InvalidName, MemorySize,
    StartPolicy, StatusVisibility, Vm as NamedVm, VmName, Vsock,
};
use stockade_config::{InstanceError, InvalidDefinition, Overrides, Requester, instantiate};

use super::effect::{Effect, RequestId};
use super::ids::Claim;
use super::permission::{Caller, Verb, may};
use super::record::{Held, Record};
use super::{Awaited, Table, Vm};

/// Most characters of a value in a message.
const MAX_VALUE: usize = 80;

impl Table {
    pub(super) fn create(&mut self, request: RequestId, caller: &Caller, new: NewVm) -> Result<Option<Answer>, Error> {
        self.expect_up()?;
        let name = parse_name(&new.name)?;
        let (template, ends_on_reset) = (new.template.clone(), new.ends_on_reset);
        let template = template.map(|template| self.template(caller, &template)).transpose()?;
        let overrides = overrides(new, caller)?;
        let (definition, inherited) = match template {
            Some(template) => {
                let groups: Vec<u32> = caller.groups.iter().chain([&caller.gid]).copied().collect();
                let requester = Requester { uid: caller.uid, groups: &groups };
                let definition = instantiate(&template.definition, &overrides, requester).map_err(refused)?;
                (definition, template.paths())
            }
            None if caller.uid == 0 => (overrides.into_definition().map_err(invalid_definition)?, BTreeSet::new()),
            None => {
                let message = "only root may define a virtual machine that is no instance of another";
                return Err(Error::new(ErrorCode::NotPermitted, message, "name the template that you may use"));
            }
        };
        let id = self.add(caller, name, definition)?;
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.record.roots_paths = inherited;
            vm.record.ends_on_reset = ends_on_reset;
        }
        self.assign_addresses(id);
        self.launch(id, caller.uid, 0)?;
        Ok(self.await_on(id, request, Awaited::Start))
    }

    /// Makes one for a command of whoever may use the control socket: of files that they may read, within their quota. It
    /// ends with the connection of this request.
    pub(super) fn run(&mut self, request: RequestId, caller: &Caller, new: NewRun) -> Result<Option<Answer>, Error> {
        self.expect_up()?;
        let boot = new.boot;
        let name = parse_name(&new.name)?;
        let definition = overrides(whole(new), caller)?.into_definition().map_err(invalid_definition)?;
        let definition = Definition { vsock: Some(Vsock::Automatic), ..definition };
        let id = self.add(caller, name, definition)?;
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.record.held = Some(Held { boot });
            vm.record.ends_on_reset = true;
            vm.holder = Some(request);
        }
        self.launch(id, caller.uid, 0)?;
        Ok(self.await_on(id, request, Awaited::Agent))
    }

    /// Takes one in that vm.conf does not define, if its name is free and there is room for it.
    fn add(&mut self, caller: &Caller, name: VmName, definition: Definition) -> Result<VmId, Error> {
        if self.records().any(|record| record.name == name) {
            let message = format!("there is a virtual machine {:?} already", name.as_str());
            return Err(Error::new(ErrorCode::Exists, message, "choose another name, or start that one"));
        }
        self.admit(name.as_str(), &definition)?;
        let claimed = self.ids.claim(name.as_str(), caller.uid).filter(|claim| !self.vms.contains_key(&claim.id));
        let Claim { id, generation, is_new } = claimed.ok_or_else(|| {
            let message = "every number of virtual machines was given out";
            Error::new(ErrorCode::IdsExhausted, message, "forget all of them: stockade reset vms")
        })?;
        if is_new {
            self.effect(Effect::SaveIds(self.ids.clone()));
        }
        let vm = NamedVm { name, start: StartPolicy::Disabled, template: None, definition };
        let mut record = Record::new(id, vm, false, caller.clone(), VmState::Stopped);
        record.generation = generation;
        self.vms.insert(id, Vm::of(record));
        Ok(id)
    }

    /// The template, if the caller may make instances of it.
    fn template(&self, caller: &Caller, name: &str) -> Result<Record, Error> {
        let visible = self.config.globals.status_visible;
        let found = self.records().find(|record| record.configured && record.name.as_str() == name);
        let allowed = found.filter(|record| may(caller, Verb::Instance, record, StatusVisibility::Permitted));
        if let Some(record) = allowed {
            return Ok(record.clone());
        }
        if found.is_some_and(|record| may(caller, Verb::Status, record, visible)) {
            return Err(refused(InstanceError::NotPermitted));
        }
        let message = format!("there is no template {:?}, or none that you may use", shortened(name));
        Err(Error::new(ErrorCode::TemplateNotFound, message, "name a virtual machine of vm.conf"))
    }
}

fn parse_name(name: &str) -> Result<VmName, Error> {
    name.parse().map_err(|error: InvalidName| Error::new(ErrorCode::InvalidName, error.to_string(), error.remedy()))
}

/// The same as any other virtual machine; its owner is the caller.
fn whole(new: NewRun) -> NewVm {
    let NewRun { name, cpus, memory_mib, kernel, initramfs, disks, boot: _ } = new;
    NewVm { name, cpus, memory_mib, kernel, initramfs, disks, ..NewVm::default() }
}

fn shortened(value: &str) -> String {
    value.chars().take(MAX_VALUE).collect()
}

fn invalid(field: &str, value: impl ToString, remedy: &str) -> Error {
    Error::new(ErrorCode::InvalidValue, format!("{field}: {}", shortened(&value.to_string())), remedy)
}

/// An error of vm.conf's is a problem and its remedy.
fn split(code: ErrorCode, text: &str) -> Error {
    let (message, remedy) = text.split_once("; ").unwrap_or((text, ""));
    Error::new(code, message, remedy)
}

fn invalid_definition(error: InvalidDefinition) -> Error {
    let code = match error {
        InvalidDefinition::NothingToBoot => ErrorCode::NothingToBoot,
        _ => ErrorCode::InvalidValue,
    };
    split(code, &error.to_string())
}

fn refused(error: InstanceError) -> Error {
    let code = match error {
        InstanceError::Definition(error) => return invalid_definition(error),
        InstanceError::DiskInUse(_) | InstanceError::LladdrInUse(_) | InstanceError::TapInUse(_) => {
            ErrorCode::ResourceInUse
        }
        _ => ErrorCode::NotPermitted,
    };
    split(code, &error.to_string())
}

/// What a client says, in the words of vm.conf.
fn overrides(new: NewVm, caller: &Caller) -> Result<Overrides, Error> {
    let cpus = |cpus: u32| u8::try_from(cpus).map_err(|_| invalid("cpus", cpus, "use 1 to 32"));
    let memory = |mib: u64| {
        let size = u32::try_from(mib).ok().and_then(MemorySize::from_mib);
        size.ok_or_else(|| invalid("memory_mib", mib, "use 1 MiB to 16 TiB"))
    };
    let path = |text: String| {
        if text.contains('\0') {
            Err(invalid("path", text, "leave out the null character"))
        } else {
            Ok(PathBuf::from(text))
        }
    };
    let boot = match (new.kernel, new.initramfs) {
        (Some(kernel), initramfs) => {
            Some(Boot::Kernel { path: path(kernel)?, initramfs: initramfs.map(path).transpose()? })
        }
        (None, Some(initramfs)) => return Err(invalid("initramfs", initramfs, "give a kernel, too")),
        (None, None) if new.template.is_none() && new.cdrom.is_none() => Some(Boot::Default),
        (None, None) => None,
    };
    let disk = |disk: stockade_api::request::NewDisk| {
        let access = if disk.read_only { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite };
        Ok(Disk { path: path(disk.path)?, format: DiskFormat::Raw, access, rate: DiskRate::default() })
    };
    let interface = |interface: stockade_api::request::NewInterface| Interface {
        switch: interface.switch,
        local: interface.local,
        ..Interface::default()
    };
    if new.disks.len() > Definition::MAX_DISKS {
        return Err(invalid("disks", new.disks.len(), "use at most 4"));
    }
    Ok(Overrides {
        cpus: new.cpus.map(cpus).transpose()?,
        memory: new.memory_mib.map(memory).transpose()?,
        boot,
        command_line: new.command_line,
        boot_device: new.boot_device.map(|device| match device {
            NewBootDevice::Disk => BootDevice::Disk,
            NewBootDevice::Cdrom => BootDevice::Cdrom,
            NewBootDevice::Net => BootDevice::Net,
        }),
        disks: new.disks.into_iter().map(disk).collect::<Result<_, _>>()?,
        cdrom: new.cdrom.map(path).transpose()?,
        interfaces: new.interfaces.into_iter().map(interface).collect(),
        uid: Some(new.owner.map_or(caller.uid, |owner| owner.uid)),
        gid: new.owner.and_then(|owner| owner.gid),
        ..Overrides::default()
    })
}
