//! Compatible jails as they really are: the jailer's program makes them, with the command line of Firecracker's, around
//! Stockade's vmm or a tenant that takes its place.
//!
//! | module | about |
//! |---|---|
//! | `confinement` | the folder, and what the vmm is and can do in it |
//! | `processes` | which process is the vmm, and how it ends |
//! | `cgroups` | control groups |
//! | `hostile` | jails that are made again where somebody hostile is at work |
//! | `interrupted` | jailers that are killed before they are done |
//! | `record` | what is written down, and how it is found |
//! | `refusals` | what there is no vmm for |
//! | `vmm` | Stockade's vmm with a guest, and files that appear later |

#![allow(clippy::unwrap_used, clippy::panic)]

mod cgroups;
mod confinement;
mod harness;
mod hostile;
mod interrupted;
mod processes;
mod record;
mod refusals;
mod vmm;
