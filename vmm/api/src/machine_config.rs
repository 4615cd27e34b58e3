//! `/machine-config`: processors and memory.

use serde::{Deserialize, Serialize};

use crate::cpu_template::StaticCpuTemplate;

/// Most vCPUs.
pub const MAX_VCPUS: u8 = 32;

/// Body of `PUT /machine-config`, and answer to `GET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpu_count: u8,
    /// Guest memory, MiB.
    pub mem_size_mib: usize,
    /// Whether two vCPUs each are shown to the guest as threads of one core.
    #[serde(default)]
    pub smt: bool,
    /// A built-in CPU template. Deprecated in favour of `PUT /cpu-config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<StaticCpuTemplate>,
    /// Whether writes of the guest are tracked, for differential snapshots.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Pages that back the guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

impl MachineConfig {
    /// The configuration with `patch` applied, if it is valid then.
    pub fn patched(self, patch: &MachineConfigPatch) -> Result<Self, MachineConfigError> {
        Self {
            vcpu_count: patch.vcpu_count.unwrap_or(self.vcpu_count),
            mem_size_mib: patch.mem_size_mib.unwrap_or(self.mem_size_mib),
            smt: patch.smt.unwrap_or(self.smt),
            cpu_template: patch.cpu_template.or(self.cpu_template),
            track_dirty_pages: patch.track_dirty_pages.unwrap_or(self.track_dirty_pages),
            huge_pages: patch.huge_pages.unwrap_or(self.huge_pages),
        }
        .validated()
    }

    /// The configuration in its normal form (no template rather than the template `None`), if it is valid.
    pub fn validated(mut self) -> Result<Self, MachineConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpu_count) {
            return Err(MachineConfigError::VcpuCount(self.vcpu_count));
        }
        if self.smt && self.vcpu_count != 1 && !self.vcpu_count.is_multiple_of(2) {
            return Err(MachineConfigError::OddThreads(self.vcpu_count));
        }
        if self.mem_size_mib == 0 {
            return Err(MachineConfigError::NoMemory);
        }
        if self.huge_pages != HugePages::None && !self.mem_size_mib.is_multiple_of(2) {
            return Err(MachineConfigError::OddMemory(self.mem_size_mib));
        }
        match self.cpu_template.take() {
            None | Some(StaticCpuTemplate::None) => Ok(self),
            Some(template) => Err(MachineConfigError::CpuTemplate(template)),
        }
    }
}

/// Body of `PATCH /machine-config`: what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfigPatch {
    /// See [`MachineConfig::vcpu_count`].
    #[serde(default)]
    pub vcpu_count: Option<u8>,
    /// See [`MachineConfig::mem_size_mib`].
    #[serde(default)]
    pub mem_size_mib: Option<usize>,
    /// See [`MachineConfig::smt`].
    #[serde(default)]
    pub smt: Option<bool>,
    /// See [`MachineConfig::cpu_template`].
    #[serde(default)]
    pub cpu_template: Option<StaticCpuTemplate>,
    /// See [`MachineConfig::track_dirty_pages`].
    #[serde(default)]
    pub track_dirty_pages: Option<bool>,
    /// See [`MachineConfig::huge_pages`].
    #[serde(default)]
    pub huge_pages: Option<HugePages>,
}

impl MachineConfigPatch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Pages that back the guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// Pages of the host's usual size.
    #[default]
    None,
    /// Transparent huge pages, asked for with `madvise`.
    Transparent,
    /// Pages of 2 MiB from the host's hugetlbfs pool.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// Why a machine configuration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MachineConfigError {
    /// Too few or too many vCPUs.
    #[error("vcpu_count {0} is out of range; use 1 to {MAX_VCPUS}")]
    VcpuCount(u8),
    /// Threads without a sibling.
    #[error("vcpu_count {0} is odd, and smt pairs the vCPUs; use 1 or an even number, or smt false")]
    OddThreads(u8),
    /// No memory.
    #[error("mem_size_mib is 0; give the guest at least 1 MiB, a Linux guest some 32")]
    NoMemory,
    /// Memory that is not a whole number of huge pages.
    #[error("mem_size_mib {0} is no multiple of the 2 MiB of a huge page; use an even number, or huge_pages None")]
    OddMemory(usize),
    /// Built-in templates.
    #[error("cpu_template {0:?}: built-in templates are not available; send a custom template to PUT /cpu-config")]
    CpuTemplate(StaticCpuTemplate),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_are_those_that_clients_match() {
        let error = serde_json::from_str::<MachineConfig>(r#"{"mem_size_mib": 128}"#).unwrap_err();
        assert_eq!(error.to_string(), "missing field `vcpu_count` at line 1 column 21");
        let error = serde_json::from_str::<MachineConfig>(r#"{"vcpu_count":1,"mem_size_mib":-1}"#).unwrap_err();
        assert_eq!(error.to_string(), "invalid value: integer `-1`, expected usize at line 1 column 33");
    }

    #[test]
    fn unset_fields_are_reset_by_put_and_kept_by_patch() {
        let put: MachineConfig = serde_json::from_str(r#"{"vcpu_count":2,"mem_size_mib":64,"smt":true}"#).unwrap();
        let patch: MachineConfigPatch = serde_json::from_str(r#"{"mem_size_mib":32}"#).unwrap();
        let patched = put.patched(&patch).unwrap();
        assert_eq!((patched.vcpu_count, patched.mem_size_mib, patched.smt), (2, 32, true));
        assert!(MachineConfigPatch::default().is_empty() && !patch.is_empty());
    }

    #[test]
    fn ranges() {
        let config = |vcpu_count, smt, mem_size_mib, huge_pages| {
            MachineConfig { vcpu_count, smt, mem_size_mib, huge_pages, ..MachineConfig::default() }.validated().err()
        };
        assert_eq!(config(32, true, 1, HugePages::None), None);
        assert_eq!(config(0, false, 1, HugePages::None), Some(MachineConfigError::VcpuCount(0)));
        assert_eq!(config(33, false, 1, HugePages::None), Some(MachineConfigError::VcpuCount(33)));
        assert_eq!(config(1, true, 1, HugePages::None), None);
        assert_eq!(config(3, true, 1, HugePages::None), Some(MachineConfigError::OddThreads(3)));
        assert_eq!(config(1, false, 0, HugePages::None), Some(MachineConfigError::NoMemory));
        assert_eq!(config(1, false, 3, HugePages::Hugetlbfs2M), Some(MachineConfigError::OddMemory(3)));
    }

    #[test]
    fn the_template_none_is_no_template() {
        let config: MachineConfig =
            serde_json::from_str(r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#).unwrap();
        let config = config.validated().unwrap();
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"vcpu_count":1,"mem_size_mib":1,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}"#
        );
        let config = MachineConfig { cpu_template: Some(StaticCpuTemplate::T2), ..config };
        assert_eq!(config.validated(), Err(MachineConfigError::CpuTemplate(StaticCpuTemplate::T2)));
    }
}
