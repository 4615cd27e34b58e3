//! Builds a machine: memory, vCPUs, and the wires between devices and KVM.

use std::{fs::File, io, sync::Arc};

use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use stockade_boot::{Entry, GuestMemory};
use stockade_vmm_api::{
    cpu_template::{CpuTemplate, KvmCapability},
    machine_config::MAX_VCPUS,
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    arch::{
        self, Clock, Features, HostKind, PlatformState, SavedRegisters, StateError, ThreadsPerCore, VcpuConfigError,
        VcpuState,
    },
    group::{GroupError, VcpuGroup},
    hypervisor::HypervisorError,
    memory::{MemoryError, MemorySpec},
    sys,
    vcpu::{Buses, Vcpu},
};

/// What is asked of a machine.
#[derive(Debug, Clone, Copy)]
pub struct MachineSpec<'a> {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// How they are shown to the guest.
    pub threads_per_core: ThreadsPerCore,
    /// Its memory.
    pub memory: MemorySpec,
    /// Changes to what the guest sees of the host's processor.
    pub template: Option<&'a CpuTemplate>,
    /// Whether its state will be saved.
    pub saving: Saving,
}

/// Whether a machine can be saved later, for which it has to keep more open than it needs to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Saving {
    /// It can't.
    #[default]
    Never,
    /// It can.
    Possible,
}

/// A machine, without its memory and its devices: to be kept, and [restored](BareMachine::restore) as often as one likes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineState {
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) platform: PlatformState,
}

impl MachineState {
    /// Number of its vCPUs.
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }
}

/// What a machine is saved by.
#[derive(Debug)]
pub(crate) struct StateReader {
    vcpus: Vec<VcpuFd>,
    registers: SavedRegisters,
}

impl StateReader {
    fn new(kvm: &Kvm, vm: &VmFd, vcpus: &[VcpuFd], template: Option<&CpuTemplate>) -> Result<Self, MachineError> {
        let second = |vcpu| sys::second_handle(vm, vcpu).map_err(MachineError::SecondHandle);
        Ok(Self {
            vcpus: vcpus.iter().map(second).collect::<Result<_, _>>()?,
            registers: SavedRegisters::of(kvm, template)?,
        })
    }

    /// Reads a machine none of whose vCPUs runs.
    pub(crate) fn save(&self, vm: &VmFd) -> Result<MachineState, StateError> {
        let save = |vcpu| VcpuState::save(vm, vcpu, &self.registers);
        Ok(MachineState {
            vcpus: self.vcpus.iter().map(save).collect::<Result<_, _>>()?,
            platform: PlatformState::save(vm)?,
        })
    }
}

/// A machine that can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// None, or more than there can be.
    #[error("{0} vCPUs: a machine has 1 to {MAX_VCPUS}")]
    VcpuCount(u8),
    /// KVM lacks something.
    #[error("KVM lacks {name} (capability {number}): use a newer kernel on this host")]
    Capability {
        /// Name of the constant.
        name: &'static str,
        /// `KVM_CAP_*`
        number: u32,
    },
    /// KVM lacks something that only the CPU template wants.
    #[error("kvm_capabilities of the CPU template names {0}, which KVM lacks: take it out, or use another kernel here")]
    TemplateCapability(u32),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What belongs to every machine.
    #[error(transparent)]
    Platform(#[from] HypervisorError),
    /// A vCPU that can't be created.
    #[error("KVM_CREATE_VCPU {index}: {source}")]
    CreateVcpu {
        /// Its number.
        index: u8,
        /// What KVM said.
        source: io::Error,
    },
    /// A vCPU that can't be configured.
    #[error("configure vCPU {index}: {source}")]
    ConfigureVcpu {
        /// Its number.
        index: u8,
        /// Why.
        source: VcpuConfigError,
    },
    /// What a machine is saved by.
    #[error("duplicate the descriptor of a vCPU: {0}")]
    SecondHandle(io::Error),
    /// A state that this machine can't have.
    #[error(transparent)]
    State(#[from] StateError),
    /// An interrupt line.
    #[error("connect an eventfd to interrupt {gsi}: {source}")]
    Irqfd {
        /// Global system interrupt.
        gsi: u32,
        /// What KVM said.
        source: io::Error,
    },
    /// A notification register.
    #[error("connect an eventfd to writes of {value} to {address:#x}: {source}")]
    Ioeventfd {
        /// Guest physical address.
        address: u64,
        /// The value.
        value: u32,
        /// What KVM said.
        source: io::Error,
    },
}

/// A virtual machine with nothing in it.
#[derive(Debug)]
pub struct BareMachine {
    kvm: Kvm,
    vm: VmFd,
    features: Features,
}

impl BareMachine {
    pub(crate) fn new(kvm: Kvm, vm: VmFd, features: Features) -> Self {
        Self { kvm, vm, features }
    }

    /// Gives it memory, interrupt controllers and vCPUs. /dev/kvm is closed afterwards.
    ///
    /// # Errors
    /// If the host can't give what `spec` asks for.
    pub fn build(self, spec: &MachineSpec<'_>) -> Result<Machine, MachineError> {
        if !(1..=MAX_VCPUS).contains(&spec.vcpus) {
            return Err(MachineError::VcpuCount(spec.vcpus));
        }
        self.check_capabilities(spec.template)?;
        let memory = spec.memory.map(self.features.address_bits())?;
        let vcpus = self.furnish(spec, &memory)?;
        let model = self
            .features
            .model(spec.vcpus, spec.threads_per_core, spec.template)
            .map_err(|source| MachineError::ConfigureVcpu { index: 0, source })?;
        for (index, vcpu) in (0..).zip(&vcpus) {
            model.configure(vcpu, index).map_err(|source| MachineError::ConfigureVcpu { index, source })?;
        }
        self.finish(spec, memory, vcpus)
    }

    /// Gives it what a machine had that was saved: `state`, and the memory in `file`, of which it has a copy of its own.
    /// /dev/kvm is closed afterwards.
    ///
    /// # Errors
    /// If `spec` and `state` don't belong together, or `state` is of another kind of host, or of no machine at all.
    pub fn restore(
        self,
        spec: &MachineSpec<'_>,
        state: &MachineState,
        file: &File,
        clock: Clock,
    ) -> Result<Machine, MachineError> {
        self.check_capabilities(spec.template)?;
        let (found, expected) = (state.vcpus.len(), usize::from(spec.vcpus));
        if found != expected || !(1..=MAX_VCPUS).contains(&spec.vcpus) {
            return Err(StateError::VcpuCount { found, expected }.into());
        }
        let memory = spec.memory.map_file(self.features.address_bits(), file)?;
        let vcpus = self.furnish(spec, &memory)?;
        for (vcpu, state) in vcpus.iter().zip(&state.vcpus) {
            state.restore(&self.vm, vcpu)?;
        }
        state.platform.restore(&self.vm, clock)?;
        self.finish(spec, memory, vcpus)
    }

    /// Memory slots, interrupt controllers and new vCPUs.
    fn furnish(&self, spec: &MachineSpec<'_>, memory: &GuestMemory) -> Result<Vec<VcpuFd>, MachineError> {
        // Memory slots come first. KVM waits for a grace period when they change, and while it still disposes of what the
        // interrupt controllers' registration left behind, that takes milliseconds instead of microseconds.
        spec.memory.register(&self.vm, memory)?;
        arch::create_platform(&self.vm)?;
        let create_vcpu = |index| {
            let failed = |source: kvm_ioctls::Error| MachineError::CreateVcpu { index, source: source.into() };
            self.vm.create_vcpu(u64::from(index)).map_err(failed)
        };
        (0..spec.vcpus).map(create_vcpu).collect()
    }

    fn finish(self, spec: &MachineSpec<'_>, memory: GuestMemory, vcpus: Vec<VcpuFd>) -> Result<Machine, MachineError> {
        let reader = match spec.saving {
            Saving::Never => None,
            Saving::Possible => Some(StateReader::new(&self.kvm, &self.vm, &vcpus, spec.template)?),
        };
        Ok(Machine { vcpus, vm: self.vm, memory: Arc::new(memory), host: self.features.host(), reader })
    }

    fn check_capabilities(&self, template: Option<&CpuTemplate>) -> Result<(), MachineError> {
        let changes = template.map_or(&[][..], |template| template.kvm_capabilities.as_slice());
        let lacks = |number: u32| self.kvm.check_extension_raw(number.into()) <= 0;
        for &(capability, name) in &arch::REQUIRED_CAPABILITIES {
            let number = capability as u32;
            if lacks(number) && !changes.contains(&KvmCapability::Waive(number)) {
                return Err(MachineError::Capability { name, number });
            }
        }
        for change in changes {
            if let &KvmCapability::Require(number) = change
                && lacks(number)
            {
                return Err(MachineError::TemplateCapability(number));
            }
        }
        Ok(())
    }
}

/// A machine with memory and vCPUs, none of which has run.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    vm: VmFd,
    memory: Arc<GuestMemory>,
    host: HostKind,
    reader: Option<StateReader>,
}

impl Machine {
    /// The guest's memory: all zero at first.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// How KVM runs guests on this host.
    pub fn host(&self) -> HostKind {
        self.host
    }

    /// Makes each write to `event` an edge on the interrupt line `gsi`.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), MachineError> {
        self.vm.register_irqfd(event, gsi).map_err(|source| MachineError::Irqfd { gsi, source: source.into() })
    }

    /// Makes each write of the 32-bit `value` to guest physical `address` a write to `event`, instead of an exit.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn register_ioeventfd(&self, event: &EventFd, address: u64, value: u32) -> Result<(), MachineError> {
        self.vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(|source| MachineError::Ioeventfd { address, value, source: source.into() })
    }

    /// Has the first vCPU begin at `entry`. The others wait until it starts them.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn set_entry(&self, entry: &Entry) -> Result<(), MachineError> {
        let Some(first) = self.vcpus.first() else { return Ok(()) };
        arch::set_entry(first, &entry.cpu).map_err(|source| MachineError::ConfigureVcpu { index: 0, source })
    }

    /// Starts a thread for each vCPU. Each calls `confine` first, which must not return if it fails, and then waits:
    /// the vCPUs are paused. From here on, every signal but the one of this group is blocked on these threads.
    ///
    /// The guest's end, whether it asked a device for it or a vCPU came to it, is reported to the `request` of `buses`.
    ///
    /// # Errors
    /// If threads can't be had.
    pub fn start_vcpus(
        self,
        buses: Buses,
        confine: impl Fn() + Send + Sync + 'static,
    ) -> Result<VcpuGroup, GroupError> {
        let memory = self.memory;
        let host = self.host;
        let vcpus = (0..).zip(self.vcpus).map(|(index, fd)| Vcpu::new(fd, index, host, memory.clone())).collect();
        VcpuGroup::start(self.vm, vcpus, buses, self.reader, confine)
    }
}
