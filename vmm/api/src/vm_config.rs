//! The whole VM in one object: the answer to `GET /vm/config`, and the file of `--config-file`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::boot_source::BootSource;
use crate::cpu_template::CpuTemplate;
use crate::drive::Drive;
use crate::entropy::Entropy;
use crate::logger::Logger;
use crate::machine_config::MachineConfig;
use crate::serial::Serial;
use crate::snapshot::SnapshotLoad;
use crate::vsock::Vsock;

/// Answer to `GET /vm/config`, which clients compare as a whole: always these keys, `null` or empty what is not set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmConfig {
    /// Not available; `null`.
    pub balloon: Option<Value>,
    /// Block devices, the root device first.
    pub drives: Vec<Drive>,
    /// What the guest boots; an empty path if it is not set.
    pub boot_source: BootSource,
    /// Not shown: `null`, as Firecracker has it.
    pub cpu_config: Option<Value>,
    /// Not shown: `null`, as Firecracker has it.
    pub logger: Option<Value>,
    /// Processors and memory.
    pub machine_config: MachineConfig,
    /// Not available; `null`.
    pub metrics: Option<Value>,
    /// Not available; `null`.
    pub mmds_config: Option<Value>,
    /// Not available; empty.
    pub network_interfaces: Vec<Value>,
    /// The vsock device.
    pub vsock: Option<Vsock>,
    /// The entropy device.
    pub entropy: Option<Entropy>,
    /// Not available; empty.
    pub pmem: Vec<Value>,
    /// Not available; `null`.
    pub memory_hotplug: Option<Value>,
}

/// The file of `--config-file`. Keys that are not known are left alone, as Firecracker does; the vmm logs them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigFile {
    /// Not available; refused unless `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Value>,
    /// Block devices.
    pub drives: Vec<Drive>,
    /// What the guest boots.
    pub boot_source: BootSource,
    /// A custom CPU template, or where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_config: Option<CpuTemplateSource>,
    /// The log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<Logger>,
    /// Processors and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_config: Option<MachineConfig>,
    /// Not available; refused unless `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Value>,
    /// Not available; refused unless `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmds_config: Option<Value>,
    /// Not available; refused unless empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_interfaces: Vec<Value>,
    /// The vsock device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// The entropy device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<Entropy>,
    /// Not available; refused unless empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pmem: Vec<Value>,
    /// Not available; refused unless `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_hotplug: Option<Value>,
    /// Where the guest's serial console goes. Firecracker takes this over the API only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
}

/// The file of `--config-file` for a VM that comes from a snapshot. Firecracker loads one over the API only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SnapshotFile {
    /// The snapshot.
    pub snapshot: SnapshotLoad,
    /// The log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger: Option<Logger>,
    /// Where the guest's serial console goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
}

/// What a vmm is started with in a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "there is one")]
pub enum StartFile {
    /// A guest to boot.
    Boot(ConfigFile),
    /// A guest that has booted.
    Snapshot(SnapshotFile),
}

/// The `cpu-config` key of [`ConfigFile`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CpuTemplateSource {
    /// The path of a file with a template, or `fd:NAME`.
    Path(String),
    /// The template itself.
    Template(CpuTemplate),
}

impl ConfigFile {
    /// Names of the fields, as they are spelled in the file.
    pub const KEYS: [&str; 14] = [
        "balloon",
        "drives",
        "boot-source",
        "cpu-config",
        "logger",
        "machine-config",
        "metrics",
        "mmds-config",
        "network-interfaces",
        "vsock",
        "entropy",
        "pmem",
        "memory-hotplug",
        "serial",
    ];

    /// The first field that asks for something which this vmm doesn't have.
    pub fn unavailable(&self) -> Option<&'static str> {
        [
            ("balloon", self.balloon.is_some()),
            ("metrics", self.metrics.is_some()),
            ("mmds-config", self.mmds_config.is_some()),
            ("network-interfaces", !self.network_interfaces.is_empty()),
            ("pmem", !self.pmem.is_empty()),
            ("memory-hotplug", self.memory_hotplug.is_some()),
        ]
        .into_iter()
        .find_map(|(name, set)| set.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_exactly_the_keys_that_clients_compare() {
        assert_eq!(
            serde_json::to_string(&VmConfig::default()).unwrap(),
            concat!(
                r#"{"balloon":null,"drives":[],"boot-source":{"kernel_image_path":"","initrd_path":null,"boot_args":null},"#,
                r#""cpu-config":null,"logger":null,"machine-config":"#,
                r#"{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"},"#,
                r#""metrics":null,"mmds-config":null,"network-interfaces":[],"vsock":null,"entropy":null,"pmem":[],"#,
                r#""memory-hotplug":null}"#
            )
        );
    }

    #[test]
    fn a_minimal_file() {
        let file: ConfigFile =
            serde_json::from_str(r#"{"boot-source":{"kernel_image_path":"fd:kernel"},"drives":[],"x":1}"#).unwrap();
        assert_eq!(file.unavailable(), None);
        assert_eq!(
            serde_json::to_string(&file).unwrap(),
            r#"{"drives":[],"boot-source":{"kernel_image_path":"fd:kernel","initrd_path":null,"boot_args":null}}"#
        );
        let error = serde_json::from_str::<ConfigFile>(r#"{"drives":[]}"#).unwrap_err();
        assert_eq!(error.to_string(), "missing field `boot-source` at line 1 column 13");
    }

    #[test]
    fn what_is_not_available_is_named() {
        let with = |more: &str| {
            let json = format!(r#"{{"boot-source":{{"kernel_image_path":"k"}},"drives":[],{more}}}"#);
            serde_json::from_str::<ConfigFile>(&json).unwrap().unavailable()
        };
        assert_eq!(with(r#""balloon":null,"network-interfaces":[]"#), None);
        assert_eq!(with(r#""network-interfaces":[{"iface_id":"1"}]"#), Some("network-interfaces"));
        assert_eq!(with(r#""metrics":{"metrics_path":"m"}"#), Some("metrics"));
    }
}
