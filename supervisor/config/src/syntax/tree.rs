//! What the text says, before anybody asks whether it makes sense.

use crate::source::Span;

/// Something, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

pub(crate) type Text = Spanned<String>;
pub(crate) type Number = Spanned<i64>;

/// Where the grammar takes both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scalar {
    Number(i64),
    Text(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    Global(Spanned<Global>),
    Switch(SwitchBlock),
    Vm(VmBlock),
    Quota(QuotaBlock),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Global {
    LocalPrefix(Text),
    LocalInet6(Option<Text>),
    SocketOwner(Spanned<Scalar>),
    AgentX(Vec<AgentXOption>),
    StaggeredStart { parallel: Number, delay: Number },
    StatusVisibleAll,
    StatusVisiblePermitted,
    StopTimeout(Number),
    ShutdownStop,
    ShutdownLeave,
    ReserveMemory(Spanned<Scalar>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AgentXOption {
    Context(Text),
    Path(Text),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SwitchBlock {
    pub(crate) name: Text,
    pub(crate) options: Vec<Spanned<SwitchOption>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SwitchOption {
    Enable,
    Disable,
    Group(Text),
    Interface(Text),
    LockedLladdr,
    Rdomain(Spanned<Scalar>),
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VmBlock {
    /// The first name: the VM's, or its template's.
    pub(crate) name: Text,
    /// The VM's name if it is an instance.
    pub(crate) instance: Option<Text>,
    pub(crate) options: Vec<Spanned<VmOption>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum VmOption {
    Enable,
    Disable,
    Cpus(Number),
    Memory(Spanned<Scalar>),
    Boot(Text),
    BootDefault,
    BootCdrom,
    BootDisk,
    BootNet,
    Initramfs(Text),
    CommandLine(Text),
    Disk { path: Text, options: Vec<Spanned<DiskOption>> },
    Cdrom(Text),
    Interfaces(Number),
    Interface { is_local: bool, name: Option<Text>, options: Vec<Spanned<InterfaceOption>> },
    VsockEnable,
    Vsock(Number),
    Sev,
    Seves,
    Owner(Spanned<Scalar>),
    AllowInstance(Vec<Spanned<AllowOption>>),
    Limit(Vec<Spanned<LimitOption>>),
    StopTimeout(Number),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DiskOption {
    Format(Text),
    ReadOnly,
    Rate(Spanned<Scalar>),
    Ops(Number),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum InterfaceOption {
    Switch(Text),
    Group(Text),
    Lladdr { is_locked: bool, address: Option<Text> },
    Rdomain(Spanned<Scalar>),
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AllowOption {
    Override(crate::model::Override),
    Owner(Spanned<Scalar>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LimitOption {
    Cpu(Number),
    Memory(Spanned<Scalar>),
    Processes(Number),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QuotaBlock {
    /// `quota`.
    pub(crate) span: Span,
    /// [`None`] is `default`.
    pub(crate) owner: Option<Spanned<Scalar>>,
    pub(crate) options: Vec<Spanned<QuotaOption>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum QuotaOption {
    Vms(Number),
    Cpus(Number),
    Memory(Spanned<Scalar>),
    Disks(Number),
}
