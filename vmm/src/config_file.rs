//! `--config-file`: the whole VM in one file.

use std::io::{self, Read};

use serde_json::Value;
use stockade_vmm_api::cpu_template::CpuTemplate;
use stockade_vmm_api::snapshot::SnapshotLoad;
use stockade_vmm_api::vm_config::{ConfigFile, CpuTemplateSource, SnapshotFile};

use crate::descriptors::{Access, Descriptors, OpenError};
use crate::logger;
use crate::resources::{ResourceError, Resources};

/// Most bytes in a configuration file, or in a file that it names as CPU template.
const MAX_BYTES: u64 = 1 << 20;

/// A configuration file that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFileError {
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be read.
    #[error("read {path:?}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is too long to be one.
    #[error("{path:?} has more than {MAX_BYTES} bytes; is this the right file?")]
    TooLong {
        /// The file.
        path: String,
    },
    /// It is not the JSON that it should be.
    #[error("{path:?}: {source}")]
    Json {
        /// The file.
        path: String,
        /// What and where.
        source: serde_json::Error,
    },
    /// Something that this vmm doesn't have.
    #[error("{path:?}: {field:?} is not available in this version of Stockade; remove it")]
    Unavailable {
        /// The file.
        path: String,
        /// The field.
        field: &'static str,
    },
    /// Something that can't be had.
    #[error("{path:?}: {source}")]
    Resource {
        /// The file.
        path: String,
        /// Why.
        source: ResourceError,
    },
}

/// What the guest comes from.
#[derive(Debug, PartialEq)]
pub enum Origin {
    /// It is to be booted.
    Boot,
    /// It has booted.
    Snapshot(SnapshotLoad),
}

/// Reads the file at `path`, and sets all that it says.
///
/// # Errors
/// At the first thing that is wrong.
pub fn apply(path: &str, resources: &mut Resources, descriptors: &mut Descriptors) -> Result<Origin, ConfigFileError> {
    let bytes = read(path, descriptors)?;
    let json = |source| ConfigFileError::Json { path: path.to_owned(), source };
    if matches!(serde_json::from_slice(&bytes), Ok(Value::Object(object)) if object.contains_key("snapshot")) {
        let SnapshotFile { snapshot, logger, serial } = serde_json::from_slice(&bytes).map_err(json)?;
        if let Some(settings) = &logger {
            logger::configure(settings, descriptors)?;
        }
        resources.serial = serial.unwrap_or_default();
        return Ok(Origin::Snapshot(snapshot));
    }
    let config: ConfigFile = serde_json::from_slice(&bytes).map_err(json)?;
    if let Some(field) = config.unavailable() {
        return Err(ConfigFileError::Unavailable { path: path.to_owned(), field });
    }
    report_unknown_keys(path, &bytes);
    if let Some(settings) = &config.logger {
        logger::configure(settings, descriptors)?;
    }
    if let Some(source) = config.cpu_config {
        resources.template = Some(template(source, descriptors)?);
    }
    let resource = |source| ConfigFileError::Resource { path: path.to_owned(), source };
    if let Some(machine) = config.machine_config {
        resources.set_machine(machine).map_err(resource)?;
    }
    resources.set_boot_source(config.boot_source, descriptors).map_err(resource)?;
    for drive in config.drives {
        resources.set_drive(drive, descriptors).map_err(resource)?;
    }
    if let Some(vsock) = config.vsock {
        resources.set_vsock(vsock, descriptors).map_err(resource)?;
    }
    resources.entropy = config.entropy;
    resources.serial = config.serial.unwrap_or_default();
    Ok(Origin::Boot)
}

fn template(source: CpuTemplateSource, descriptors: &Descriptors) -> Result<CpuTemplate, ConfigFileError> {
    match source {
        CpuTemplateSource::Template(template) => Ok(template),
        CpuTemplateSource::Path(path) => {
            let bytes = read(&path, descriptors)?;
            serde_json::from_slice(&bytes).map_err(|source| ConfigFileError::Json { path, source })
        }
    }
}

fn read(path: &str, descriptors: &Descriptors) -> Result<Vec<u8>, ConfigFileError> {
    let mut bytes = Vec::new();
    let mut limited = descriptors.open(path, Access::Read)?.take(MAX_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ConfigFileError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Firecracker ignores them, so they are no error; but a misspelled key should not go unnoticed.
fn report_unknown_keys(path: &str, bytes: &[u8]) {
    let Ok(Value::Object(object)) = serde_json::from_slice(bytes) else { return };
    for key in object.keys().filter(|key| !ConfigFile::KEYS.contains(&key.as_str())) {
        log::warn!("{path:?}: unknown key {key:?} is ignored");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply_text(text: &str) -> Result<Resources, ConfigFileError> {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let text = text.replace("KERNEL", &file("kernel", "image"));
        let path = file("config", &text);
        let mut resources = Resources::default();
        let mut descriptors = Descriptors::inherit(Vec::new(), crate::descriptors::SnapshotFiles::HandedOver).unwrap();
        apply(&path, &mut resources, &mut descriptors).map(|_| resources)
    }

    #[test]
    fn all_that_it_says_is_set() {
        let resources = apply_text(
            r#"{"boot-source":{"kernel_image_path":"KERNEL","boot_args":"quiet"},"drives":[],"entropy":{},"other":1,
                "machine-config":{"vcpu_count":2,"mem_size_mib":64},"cpu-config":{"cpuid_modifiers":[]}}"#,
        )
        .unwrap();
        assert_eq!(resources.machine.vcpu_count, 2);
        assert!(resources.entropy.is_some() && resources.template.is_some() && resources.boot.is_some());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("{}", "drives"),
            (r#"{"drives":[]}"#, "boot-source"),
            ("[]", "invalid length"),
            ("7", "invalid type"),
            (r#"{"boot-source":{"kernel_image_path":"/nowhere"},"drives":[]}"#, "/nowhere"),
            (r#"{"boot-source":{"kernel_image_path":"KERNEL"},"drives":[],"balloon":{}}"#, "balloon"),
            (
                r#"{"boot-source":{"kernel_image_path":"KERNEL"},"drives":[],
                   "machine-config":{"vcpu_count":0,"mem_size_mib":1}}"#,
                "vcpu_count",
            ),
        ] {
            let error = apply_text(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(apply_text(&" ".repeat(2 << 20)).unwrap_err().to_string().contains("right file"));
    }

    /// A file in which everything is right, with one piece replaced.
    fn damaged() -> impl Strategy<Value = String> {
        const GOOD: &str = r#"{"boot-source":{"kernel_image_path":"KERNEL","initrd_path":null},"drives":[
            {"drive_id":"a","is_root_device":true,"path_on_host":"KERNEL","is_read_only":true}],"entropy":{},
            "machine-config":{"vcpu_count":2,"mem_size_mib":64,"smt":true,"huge_pages":"None"},"serial":{}}"#;
        let pieces = r#"[\]\[{}",:0-9a-z\x00\u{e9}-]{0,4}"#;
        (0..GOOD.len(), 0..8_usize, pieces).prop_map(|(start, length, piece)| {
            let end = (start + length).min(GOOD.len());
            format!("{}{piece}{}", &GOOD[..start], &GOOD[end..])
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_is_valid_and_what_is_not_is_explained(text in damaged()) {
            match apply_text(&text) {
                Ok(resources) => {
                    prop_assert!((1..=32).contains(&resources.machine.vcpu_count));
                    prop_assert!(resources.machine.mem_size_mib > 0);
                    prop_assert!(resources.boot.is_some());
                }
                Err(error) => prop_assert!(error.to_string().contains("config"), "{}", error),
            }
        }
    }
}
