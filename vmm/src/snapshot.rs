//! The state file of a snapshot.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..8 | `STOCKADE` |
//! | 8..12 | [`VERSION`], little-endian |
//! | 12..16 | length of the rest after the digest, little-endian |
//! | 16..48 | SHA-256 of the rest |
//! | 48.. | [`SavedVm`] in postcard's encoding, filling the file exactly |
//!
//! The digest finds damage, and is no signature: whoever may write the file may write another digest. So nothing in it is
//! believed. Numbers become a machine only through the checks that the same numbers go through from a client or a driver:
//! the configuration is validated like one, queues are set up like a driver's, and KVM checks what it is given.

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stockade_devices::legacy::i8042::I8042State;
use stockade_devices::legacy::serial::UartState;
use stockade_devices::virtio::state::DeviceState;
use stockade_machine::MachineState;
use stockade_vmm_api::drive::Drive;
use stockade_vmm_api::entropy::Entropy;
use stockade_vmm_api::machine_config::MachineConfig;
use stockade_vmm_api::vm_config::VmConfig;
use stockade_vmm_api::vsock::Vsock;

/// Version of the format. Another one is refused.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"STOCKADE";
const HEADER_BYTES: usize = 48;
/// Most bytes behind the header: 32 vCPUs with large extended registers, and every device.
const BODY_BYTES_MAX: u32 = 8 << 20;

/// A state file that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFileError {
    /// It can't be read.
    #[error("read the state file: {0}")]
    Read(io::Error),
    /// It is something else.
    #[error("the state file is none of Stockade's; make a new snapshot")]
    Magic,
    /// It was written by another version.
    #[error("the state file has version {0} of the format, and this vmm knows {VERSION}; make a new snapshot")]
    Version(u32),
    /// It is shorter or longer than it says.
    #[error("the state file is damaged: it should have {expected} bytes, and has {found}; make a new snapshot")]
    Length {
        /// As it says.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// It was changed.
    #[error("the state file is damaged: its content does not have the digest that it should; make a new snapshot")]
    Digest,
    /// It does not decode.
    #[error("the state file is damaged: {0}; make a new snapshot")]
    Encoding(postcard::Error),
    /// Its configuration.
    #[error("the state file's configuration: {0}; make a new snapshot")]
    Config(serde_json::Error),
    /// There is too much to be written.
    #[error("the state has more than {BODY_BYTES_MAX} bytes")]
    TooLong,
}

/// What a client had configured. Paths are those of the vmm that was saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedConfig {
    /// Processors and memory.
    pub machine_config: MachineConfig,
    /// Drives, in the guest's order.
    pub drives: Vec<Drive>,
    /// The vsock device.
    pub vsock: Option<Vsock>,
    /// The entropy device.
    pub entropy: Option<Entropy>,
}

impl From<&VmConfig> for SavedConfig {
    fn from(config: &VmConfig) -> Self {
        Self {
            machine_config: config.machine_config,
            drives: config.drives.clone(),
            vsock: config.vsock.clone(),
            entropy: config.entropy,
        }
    }
}

/// A VM without its memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedVm {
    /// [`SavedConfig`] as JSON, whose fields may come and go.
    config: String,
    /// vCPUs and interrupt controllers.
    pub machine: MachineState,
    /// The serial port.
    pub serial: UartState,
    /// The keyboard controller.
    pub keyboard: I8042State,
    /// The virtio devices, in the order of their places.
    pub devices: Vec<DeviceState>,
}

impl SavedVm {
    /// A VM with this configuration.
    ///
    /// # Errors
    /// None is known.
    pub fn new(
        config: &SavedConfig,
        machine: MachineState,
        serial: UartState,
        keyboard: I8042State,
        devices: Vec<DeviceState>,
    ) -> Result<Self, SnapshotFileError> {
        let config = serde_json::to_string(config).map_err(SnapshotFileError::Config)?;
        Ok(Self { config, machine, serial, keyboard, devices })
    }

    /// What had been configured.
    ///
    /// # Errors
    /// If it is no configuration.
    pub fn config(&self) -> Result<SavedConfig, SnapshotFileError> {
        serde_json::from_str(&self.config).map_err(SnapshotFileError::Config)
    }

    /// The content of its file.
    ///
    /// # Errors
    /// If that would be too long.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotFileError> {
        let body = postcard::to_stdvec(self).map_err(SnapshotFileError::Encoding)?;
        let length = u32::try_from(body.len()).ok().filter(|&length| length <= BODY_BYTES_MAX);
        let length = length.ok_or(SnapshotFileError::TooLong)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(Sha256::digest(&body));
        bytes.extend(body);
        Ok(bytes)
    }

    /// Reads it from its file.
    ///
    /// # Errors
    /// If the file is anything but what [`encode`](Self::encode) makes.
    pub fn read(file: &File) -> Result<Self, SnapshotFileError> {
        let mut bytes = Vec::new();
        let most = (HEADER_BYTES as u64).saturating_add(BODY_BYTES_MAX.into()).saturating_add(1);
        file.take(most).read_to_end(&mut bytes).map_err(SnapshotFileError::Read)?;
        Self::decode(&bytes)
    }

    /// Reads it from the content of a file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotFileError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(SnapshotFileError::Magic)?;
        if *magic != MAGIC {
            return Err(SnapshotFileError::Magic);
        }
        let short = SnapshotFileError::Length { expected: HEADER_BYTES as u64, found: bytes.len() as u64 };
        let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Err(short) };
        match u32::from_le_bytes(*version) {
            VERSION => {}
            other => return Err(SnapshotFileError::Version(other)),
        }
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Err(short) };
        let Some((digest, body)) = rest.split_first_chunk::<32>() else { return Err(short) };
        let expected = u64::from(u32::from_le_bytes(*length)).saturating_add(HEADER_BYTES as u64);
        if expected != bytes.len() as u64 {
            return Err(SnapshotFileError::Length { expected, found: bytes.len() as u64 });
        }
        if Sha256::digest(body).as_slice() != digest {
            return Err(SnapshotFileError::Digest);
        }
        let (saved, trailing) = postcard::take_from_bytes(body).map_err(SnapshotFileError::Encoding)?;
        match trailing {
            [] => Ok(saved),
            _ => Err(SnapshotFileError::Encoding(postcard::Error::DeserializeBadEncoding)),
        }
    }
}
