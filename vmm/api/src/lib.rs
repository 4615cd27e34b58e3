//! Types of the per-VM API, shared by the server in `stockade-vmm` and its clients. No I/O.
//!
//! Bodies of requests and answers have the names, defaults and strictness of Firecracker v1.16.1's, so that its clients
//! work unmodified; the order of the fields is part of that, because it shows in the texts of JSON errors. Checks that
//! go beyond the shape of the JSON are methods that return typed errors.
//!
//! | module | route |
//! |---|---|
//! | [`action`] | `PUT /actions`, `PATCH /vm` |
//! | [`boot_source`] | `PUT /boot-source` |
//! | [`cpu_template`] | `PUT /cpu-config` |
//! | [`drive`] | `PUT /drives/{id}` |
//! | [`entropy`] | `PUT /entropy` |
//! | [`id`] | names in paths and on the command line |
//! | [`instance`] | `GET /`, `GET /version`, error bodies |
//! | [`logger`] | `PUT /logger` |
//! | [`machine_config`] | `/machine-config` |
//! | [`rate_limiter`] | the `rate_limiter` field of several |
//! | [`serial`] | `PUT /serial` |
//! | [`snapshot`] | `PUT /snapshot/create`, `PUT /snapshot/load` |
//! | [`vm_config`] | `GET /vm/config`, `--config-file` |
//! | [`vsock`] | `PUT /vsock` |
//!
//! [`event`] and [`exit`] are what a vmm tells the process that started it.

#![forbid(unsafe_code)]

pub mod action;
pub mod boot_source;
pub mod cpu_template;
pub mod drive;
pub mod entropy;
pub mod event;
pub mod exit;
pub mod id;
pub mod instance;
pub mod logger;
pub mod machine_config;
pub mod rate_limiter;
pub mod serial;
pub mod snapshot;
pub mod vm_config;
pub mod vsock;

/// Version of Firecracker whose API this is; what `GET /version` answers.
pub const FIRECRACKER_VERSION: &str = "1.16.1";
