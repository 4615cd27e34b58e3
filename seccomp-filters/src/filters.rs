//! The compiled filters.

use seccompiler::sock_filter;

use crate::Role;

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// The filter of a role.
pub(crate) const fn of(role: Role) -> &'static [sock_filter] {
    match role {
        Role::Launch => LAUNCH,
        Role::LaunchCompatible => LAUNCH_COMPATIBLE,
        Role::VmmConfigureSealed => VMM_CONFIGURE_SEALED,
        Role::VmmConfigure => VMM_CONFIGURE,
        Role::VmmConfigureSnapshot => VMM_CONFIGURE_SNAPSHOT,
        Role::VmmRunSnapshot => VMM_RUN_SNAPSHOT,
        Role::VmmRunSealed => VMM_RUN_SEALED,
        Role::VmmRun => VMM_RUN,
        Role::VmmRunSave => VMM_RUN_SAVE,
        Role::VmmRunSnapshotFiles => VMM_RUN_SNAPSHOT_FILES,
        Role::Api => API,
        Role::Vcpu => VCPU,
        Role::Warden => WARDEN,
        Role::Control => CONTROL,
        Role::Net => NET,
    }
}
