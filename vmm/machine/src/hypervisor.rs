//! /dev/kvm, and what it offers.

use std::{io, os::fd::OwnedFd};

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::Kvm;

use crate::{
    arch::{Features, HostKind},
    machine::BareMachine,
    sys,
};

/// KVM, with what it offers to guests. Opening it needs nothing of a machine's configuration.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
    features: Features,
}

/// KVM can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// /dev/kvm can't be opened.
    #[error(
        "open /dev/kvm: {0}; load the module kvm_intel or kvm_amd (virtualisation may have to be enabled in the \
         firmware), and run as a user that may read and write it"
    )]
    Open(io::Error),
    /// The descriptor is something else, or KVM is none that this program knows.
    #[error("KVM's API version is {0} instead of {KVM_API_VERSION}: is this descriptor /dev/kvm?")]
    ApiVersion(i32),
    /// A request failed.
    #[error("{request}: {source}")]
    Request {
        /// What was asked of KVM.
        request: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl HypervisorError {
    pub(crate) fn of(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |source| Self::Request { request, source: source.into() }
    }
}

impl Hypervisor {
    /// Takes an inherited descriptor of /dev/kvm, or opens it.
    ///
    /// # Errors
    /// If it can't be opened, or is something else.
    pub fn open(inherited: Option<OwnedFd>) -> Result<Self, HypervisorError> {
        let kvm = match inherited {
            Some(descriptor) => sys::kvm_from_fd(descriptor),
            None => Kvm::new().map_err(|source| HypervisorError::Open(source.into()))?,
        };
        match kvm.get_api_version() {
            version if version == KVM_API_VERSION as i32 => {}
            version => return Err(HypervisorError::ApiVersion(version)),
        }
        let features = Features::of(&kvm)?;
        Ok(Self { kvm, features })
    }

    /// How KVM runs guests on this host.
    pub fn host(&self) -> HostKind {
        self.features.host()
    }

    /// Creates a machine, with nothing in it.
    ///
    /// # Errors
    /// If KVM refuses, for instance for want of memory.
    pub fn create_machine(self) -> Result<BareMachine, HypervisorError> {
        let vm = self.kvm.create_vm().map_err(HypervisorError::of("KVM_CREATE_VM"))?;
        Ok(BareMachine::new(self.kvm, vm, self.features))
    }
}
