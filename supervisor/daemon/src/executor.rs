//! Does what the table wants done, and tells it what came of it.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use stockade_api::{Answer, Attached, Error, ErrorCode, Target, Verbosity, VmId};
use stockade_config::host::RealHost;
use stockade_config::{Config, Input as ConfigurationInput, Rejected};
use stockade_supervisor::machine::request::vsock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::consoles::Consoles;
use crate::control::parent::Outgoing;
use crate::machine::{Order, Workshop, launch, take_over};
use crate::store::StoreError;
use crate::table::{Clock, Effect, Host, Input, MachineEvent, Record, RequestId, Table};

/// Who gets answers.
pub type Answers = Box<dyn FnMut(Outgoing)>;

/// Performs effects.
pub struct Executor {
    table: Table,
    workshop: Arc<Workshop>,
    consoles: Consoles,
    /// Which configuration is the daemon's own.
    configuration: ConfigurationInput,
    machines: HashMap<(VmId, u64), UnboundedSender<Order>>,
    inputs: UnboundedSender<Input>,
    queue: UnboundedReceiver<Input>,
    answers: Answers,
    /// Those whose record could not be saved: nothing is begun with them.
    unsaved: HashSet<VmId>,
}

impl Executor {
    /// Comes back to what the daemon before this one has left, with this configuration. To be called within a runtime.
    ///
    /// # Errors
    /// What was kept can't be read.
    pub fn new(
        workshop: Workshop,
        consoles: Consoles,
        configuration: ConfigurationInput,
        config: Config,
        answers: Answers,
    ) -> Result<Self, StoreError> {
        let (ids, records) = (workshop.store.ids()?, workshop.store.records()?);
        let (inputs, queue) = unbounded_channel();
        let table = Table::new(config.clone(), host(), ids, records.clone(), clock());
        let workshop = Arc::new(workshop);
        let mut executor = Self {
            table,
            workshop,
            consoles,
            configuration,
            machines: HashMap::new(),
            inputs,
            queue,
            answers,
            unsaved: HashSet::new(),
        };
        executor.recover(&records);
        executor.handle(Input::Configured { config: Box::new(config), request: None });
        executor.handle(Input::Recovered);
        Ok(executor)
    }

    /// Where inputs are sent to.
    pub fn inputs(&self) -> UnboundedSender<Input> {
        self.inputs.clone()
    }

    /// How many virtual machines there are, and how many of them run.
    pub fn count(&self) -> (usize, usize) {
        (self.table.records().count(), self.machines.len())
    }

    /// Works until the daemon is to end.
    pub async fn run(&mut self) {
        loop {
            let deadline = self.table.deadline_ms();
            let wait = deadline.map(|deadline| Duration::from_millis(deadline.saturating_sub(clock().boot_ms)));
            let time = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                input = self.queue.recv() => input,
                () = time => Some(Input::Time),
            };
            let Some(input) = input else { return };
            if self.handle(input) == Next::End {
                return;
            }
        }
    }

    /// Reads the daemon's own configuration again.
    pub fn reload(&mut self) {
        match read(&self.configuration, None) {
            Ok(config) => drop(self.inputs.send(Input::Configured { config: Box::new(config), request: None })),
            Err(rejected) => log::error!("the configuration can't be used, and nothing was changed: {rejected}"),
        }
    }

    /// Compares what was saved with what is there.
    fn recover(&mut self, records: &[Record]) {
        let live: Vec<_> = records.iter().filter(|record| record.state.is_live()).collect();
        let jails: Vec<_> = live.iter().map(|record| record.jail_name()).collect();
        self.workshop.store.sweep_journals(&jails);
        crate::sweep::end_unknown(&self.workshop.jails, &jails);
        if let Err(error) = self.workshop.jails.prepare() {
            log::error!("sweep: {}", stockade_supervisor::text::chain(&error));
        }
        for record in live {
            let (orders, receiver) = unbounded_channel();
            self.machines.insert((record.id, record.generation), orders);
            tokio::spawn(take_over(self.workshop.clone(), record.clone(), receiver, self.inputs.clone()));
        }
    }

    fn handle(&mut self, input: Input) -> Next {
        let over = match &input {
            Input::Machine {
                vm,
                generation,
                event: MachineEvent::Ended { .. } | MachineEvent::NotStarted(_) | MachineEvent::NeverLaunched,
            } => Some((*vm, *generation)),
            _ => None,
        };
        let jail = over.and_then(|(vm, generation)| {
            let record = self.table.record(vm)?;
            Some(Record { generation, ..record.clone() }.jail_name())
        });
        let mut next = Next::Go;
        for effect in self.table.handle(input, clock()) {
            if matches!(effect, Effect::Exit) {
                next = Next::End;
            }
            self.perform(effect);
        }
        if let Some(over) = over {
            self.machines.remove(&over);
        }
        // What its warden said is in the record now.
        if let Some(jail) = jail {
            self.workshop.store.forget_journal(&jail);
        }
        next
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Save(record) => {
                let saved = self.workshop.store.save(&record);
                self.note(record.id, saved);
            }
            Effect::Forget(id) => self.workshop.store.forget(id),
            Effect::SaveIds(ids) => {
                if let Err(error) = self.workshop.store.save_ids(&ids) {
                    log::error!("{}", stockade_supervisor::text::chain(&error));
                }
            }
            Effect::Launch(record) => self.launch(*record),
            Effect::Ask { vm, generation } => self.order(vm, generation, Order::Ask),
            Effect::Kill { vm, generation } => self.order(vm, generation, Order::Kill),
            Effect::Pause { vm, generation } => self.order(vm, generation, Order::Pause),
            Effect::Resume { vm, generation } => self.order(vm, generation, Order::Resume),
            Effect::Configure { path, request } => self.configure(path, request),
            Effect::Log(verbosity) => log::set_max_level(match verbosity {
                Verbosity::Brief => log::LevelFilter::Info,
                Verbosity::Verbose => log::LevelFilter::Debug,
            }),
            Effect::Answer { id, answer } => (self.answers)(Outgoing { id, answer, descriptors: Vec::new() }),
            Effect::Attach { id, vm, target } => self.attach(id, vm, target),
            Effect::GiveAgent { id, vm, generation } => self.give_agent(id, vm, generation),
            Effect::Exit => {}
        }
    }

    fn attach(&mut self, id: RequestId, vm: VmId, target: Target) {
        let attached = match target {
            Target::Console { access } => self.consoles.attach(&self.workshop.store, vm, access),
            Target::Agent => self.agent(vm),
        };
        self.answer_attached(id, attached);
    }

    /// A connection to the vsock device of one.
    fn agent(&self, vm: VmId) -> Result<(Attached, Vec<OwnedFd>), Error> {
        let gone = |message: String| Error::new(ErrorCode::VmmFailed, message, "try again in a while");
        let record = self.table.record(vm).ok_or_else(|| gone(format!("{vm} is gone")))?;
        let folder = self.workshop.jails.machines().join(record.jail_name());
        let socket = vsock(&folder).map_err(|error| gone(format!("reach the vsock device of {vm}: {error}")))?;
        Ok((Attached::Agent { expected: record.runs_agent() }, vec![socket]))
    }

    /// The first connection of an agent goes to the client that has one made for it.
    fn give_agent(&mut self, id: RequestId, vm: VmId, generation: u64) {
        let gone = || Error::new(ErrorCode::Ended, format!("{vm} ended before its agent was there"), "");
        let agent = self.workshop.agents.take(vm, generation).ok_or_else(gone);
        self.answer_attached(id, agent.map(|socket| (Attached::Stream, vec![socket])));
    }

    fn answer_attached(&mut self, id: RequestId, attached: Result<(Attached, Vec<OwnedFd>), Error>) {
        (self.answers)(match attached {
            Ok((attached, descriptors)) => Outgoing { id, answer: Ok(Answer::Attached(attached)), descriptors },
            Err(error) => Outgoing { id, answer: Err(error), descriptors: Vec::new() },
        });
    }

    fn note(&mut self, id: VmId, saved: Result<(), StoreError>) {
        match saved {
            Ok(()) => drop(self.unsaved.remove(&id)),
            Err(error) => {
                log::error!("{}", stockade_supervisor::text::chain(&error));
                self.unsaved.insert(id);
            }
        }
    }

    fn launch(&mut self, record: Record) {
        let (vm, generation) = (record.id, record.generation);
        if self.unsaved.contains(&vm) {
            let error = Error::new(
                ErrorCode::Internal,
                "what is known of it could not be written down",
                "make room below /run",
            );
            let event = MachineEvent::NotStarted(error);
            let _ = self.inputs.send(Input::Machine { vm, generation, event });
            return;
        }
        log::info!("{}: starts as {}", record.name, record.jail_name());
        let (orders, receiver) = unbounded_channel();
        self.machines.insert((vm, generation), orders);
        tokio::spawn(launch(self.workshop.clone(), record, receiver, self.inputs.clone()));
    }

    fn order(&self, vm: VmId, generation: u64, order: Order) {
        if let Some(orders) = self.machines.get(&(vm, generation)) {
            // One that is over does nothing any more, and has said so.
            let _ = orders.send(order);
        }
    }

    fn configure(&mut self, path: Option<String>, request: RequestId) {
        let input = match path {
            None => read(&self.configuration, None),
            Some(path) => {
                let added = ConfigurationInput { path: PathBuf::from(path), ..self.configuration.clone() };
                read(&added, Some(self.table.config()))
            }
        };
        let _ = self.inputs.send(match input {
            Ok(config) => Input::Configured { config: Box::new(config), request: Some(request) },
            Err(rejected) => {
                let message = rejected.to_string();
                let remedy = "nothing was changed; check it: stockaded -n";
                Input::NotConfigured { error: Error::new(ErrorCode::InvalidConfiguration, message, remedy), request }
            }
        });
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Executor").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

fn read(input: &ConfigurationInput, beside: Option<&Config>) -> Result<Config, Rejected> {
    let loaded = match beside {
        None => stockade_config::load(&RealHost, input)?,
        Some(current) => stockade_config::load_beside(&RealHost, input, current)?,
    };
    if !loaded.report.diagnostics().is_empty() {
        log::warn!("{}", loaded.report);
    }
    Ok(loaded.config)
}

/// What time it is.
pub fn clock() -> Clock {
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Clock { boot_ms: milliseconds(boot), wall_ms: milliseconds(wall) }
}

/// What the host has.
fn host() -> Host {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    Host { memory_mib: total.unwrap_or(0) / 1024, cpus, identity: identity() }
}

/// The host's number (machine-id(5)); without one, that of this boot.
fn identity() -> u128 {
    let files = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"];
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let numbers = texts.filter_map(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok());
    numbers.into_iter().next().unwrap_or_default()
}
