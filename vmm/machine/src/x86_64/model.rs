//! What the vCPUs of a machine are like.

use std::io;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use stockade_vmm_api::cpu_template::CpuTemplate;

use super::{
    cpuid::{Cpuid, TscDeadlineTimer},
    host::HostKind,
    registers::set_firmware_msrs,
    template::{self, TemplateError},
    topology::{ThreadsPerCore, Topology},
};
use crate::hypervisor::HypervisorError;

/// A vCPU that can't be configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuConfigError {
    /// The CPU template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// KVM refused a request.
    #[error("{request}: {source}")]
    Request {
        /// What was asked of KVM.
        request: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A model specific register that KVM does not let be read.
    #[error(
        "read model specific register {index:#x}: KVM has no such register on this host; take it out of the CPU template"
    )]
    ReadMsr {
        /// The register.
        index: u32,
    },
    /// A model specific register that KVM does not let be written.
    #[error("write {value:#x} to model specific register {index:#x}: KVM refuses; take it out of the CPU template")]
    WriteMsr {
        /// The register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// A list that is too long for KVM.
    #[error("make a list for KVM: {0:?}")]
    Entries(vmm_sys_util::fam::Error),
}

impl VcpuConfigError {
    pub(crate) fn request(request: &'static str, source: kvm_ioctls::Error) -> Self {
        Self::Request { request, source: source.into() }
    }
}

/// What KVM offers to guests on this host.
#[derive(Debug)]
pub(crate) struct Features {
    host: HostKind,
    cpuid: Cpuid,
}

impl Features {
    /// Asks KVM.
    pub(crate) fn of(kvm: &Kvm) -> Result<Self, HypervisorError> {
        let host = HostKind::detect();
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(HypervisorError::of("KVM_GET_SUPPORTED_CPUID"))?;
        let deadline_timer = match kvm.check_extension(Cap::TscDeadlineTimer) {
            true => TscDeadlineTimer::Offered,
            false => TscDeadlineTimer::Missing,
        };
        Ok(Self { host, cpuid: Cpuid::for_guests(supported.as_slice(), host, deadline_timer) })
    }

    pub(crate) fn host(&self) -> HostKind {
        self.host
    }

    /// Bits of a guest physical address.
    pub(crate) fn address_bits(&self) -> u8 {
        self.cpuid.address_bits()
    }

    /// The vCPUs of a machine that has `vcpus` of them.
    pub(crate) fn model<'a>(
        &self,
        vcpus: u8,
        threads_per_core: ThreadsPerCore,
        template: Option<&'a CpuTemplate>,
    ) -> Result<Model<'a>, VcpuConfigError> {
        let mut cpuid = self.cpuid.clone();
        if let Some(template) = template {
            template::modify_cpuid(template, &mut cpuid)?;
        }
        Ok(Model { cpuid, topology: Topology::new(vcpus, threads_per_core), template })
    }
}

/// What all vCPUs of a machine have in common.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    cpuid: Cpuid,
    topology: Topology,
    template: Option<&'a CpuTemplate>,
}

impl Model<'_> {
    /// Makes a new vCPU one of these.
    pub(crate) fn configure(&self, vcpu: &VcpuFd, index: u8) -> Result<(), VcpuConfigError> {
        let mut cpuid = self.cpuid.clone();
        self.topology.apply(&mut cpuid, index);
        let given = cpuid.to_kvm().map_err(VcpuConfigError::Entries)?;
        vcpu.set_cpuid2(&given).map_err(|source| VcpuConfigError::request("KVM_SET_CPUID2", source))?;
        set_firmware_msrs(vcpu)?;
        let Some(template) = self.template else { return Ok(()) };
        let found = vcpu
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(|source| VcpuConfigError::request("KVM_GET_CPUID2", source))?;
        template::check_cpuid(template, &cpuid, found.as_slice())?;
        template::modify_msrs(template, vcpu)
    }
}
