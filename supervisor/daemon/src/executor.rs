//! Does what the table wants done, and tells it what came of it.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use stockade_api::{Answer, Attached, Error, ErrorCode, Target, Verbosity, VmId};
use stockade_config::host::RealHost;
use stockade_config::model::Switch;
use stockade_config::{Config, Input as ConfigurationInput, Rejected};
use stockade_supervisor::machine::request::vsock;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::watch;

use crate::consoles::Consoles;
use crate::control::parent::Outgoing;
use crate::machine::{Order, Workshop, launch, take_over};
use crate::net::parent as net;
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
    net: UnboundedSender<net::Order>,
    /// The switches that it was told of.
    switches: Vec<Switch>,
    /// Those whose record could not be saved: nothing is begun with them.
    unsaved: HashSet<VmId>,
    /// Ends once no machine is being taken over any more.
    adopted: Option<Receiver<()>>,
    count: watch::Sender<Count>,
    /// Whether the daemon is to end.
    is_over: bool,
}

/// How many virtual machines there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All that are known.
    pub known: usize,
    /// Those that have a process.
    pub live: usize,
}

impl std::fmt::Display for Count {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let machines = if self.known == 1 { "machine" } else { "machines" };
        write!(formatter, "{} virtual {machines}, of which {} run", self.known, self.live)
    }
}

impl Executor {
    /// Comes back to what the daemon before this one has left, with this configuration. To be called within a runtime.
    /// Who hears of `net` looks up what the host has in the place of switches.
    ///
    /// # Errors
    /// What was kept can't be read.
    pub fn new(
        workshop: Workshop,
        consoles: Consoles,
        configuration: ConfigurationInput,
        config: Config,
        answers: Answers,
        net: UnboundedSender<net::Order>,
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
            net,
            switches: Vec::new(),
            unsaved: HashSet::new(),
            adopted: None,
            count: watch::Sender::default(),
            is_over: false,
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

    /// How many virtual machines there are, now and whenever that changes.
    pub fn count(&self) -> watch::Receiver<Count> {
        self.count.subscribe()
    }

    /// Returns once every machine of the daemon before this one is this one's, or known to have ended.
    pub fn adopted(&mut self) -> impl Future<Output = ()> + use<> {
        let adopted = self.adopted.take();
        async move {
            if let Some(mut adopted) = adopted {
                // Nobody says anything; it ends.
                adopted.recv().await;
            }
        }
    }

    /// Works until the daemon is to end.
    pub async fn run(&mut self) {
        while !self.is_over {
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
            self.handle(input);
        }
    }

    /// Reads the daemon's own configuration again: all of it is in force then, or nothing has changed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reload(&mut self) -> Result<(), Rejected> {
        let config = read(&self.configuration, None)?;
        self.handle(Input::Configured { config: Box::new(config), request: None });
        Ok(())
    }

    /// Has the daemon end, which [`run`](Self::run) then does: at once if guests are left to the next one, or there are none.
    /// Returns how many are waited for, and milliseconds until the last of them has had its time.
    pub fn shut_down(&mut self) -> (usize, u64) {
        self.handle(Input::ShutDown);
        if self.is_over {
            return (0, 0);
        }
        let deadlines = self.table.records().filter_map(|record| record.stop?.deadline_ms);
        let last = deadlines.max().unwrap_or_default();
        (self.count.borrow().live, last.saturating_sub(clock().boot_ms))
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
        let (adopting, adopted) = channel(1);
        self.adopted = Some(adopted);
        for record in live {
            let (orders, receiver) = unbounded_channel();
            self.machines.insert((record.id, record.generation), orders);
            let (workshop, inputs, adopting) = (self.workshop.clone(), self.inputs.clone(), adopting.clone());
            tokio::spawn(take_over(workshop, record.clone(), receiver, inputs, adopting));
        }
    }

    fn handle(&mut self, input: Input) {
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
        for effect in self.table.handle(input, clock()) {
            self.perform(effect);
        }
        if let Some(over) = over {
            self.machines.remove(&over);
        }
        // What its warden said is in the record now.
        if let Some(jail) = jail {
            self.workshop.store.forget_journal(&jail);
        }
        self.note_switches();
        self.note_count();
    }

    fn note_switches(&mut self) {
        let switches = &self.table.config().switches;
        if *switches != self.switches {
            self.switches.clone_from(switches);
            let _ = self.net.send(net::Order::Watch(switches.clone()));
        }
    }

    fn note_count(&self) {
        let live = self.table.records().filter(|record| record.state.is_live()).count();
        let count = Count { known: self.table.records().count(), live };
        self.count.send_if_modified(|known| std::mem::replace(known, count) != count);
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
            // Without a listener the daemon is at its end.
            Effect::LookUp { request, switches } => drop(self.net.send(net::Order::Look { request, switches })),
            Effect::Log(verbosity) => log::set_max_level(match verbosity {
                Verbosity::Brief => log::LevelFilter::Info,
                Verbosity::Verbose => log::LevelFilter::Debug,
            }),
            Effect::Answer { id, answer } => (self.answers)(Outgoing { id, answer, descriptors: Vec::new() }),
            Effect::Attach { id, vm, target } => self.attach(id, vm, target),
            Effect::GiveAgent { id, vm, generation } => self.give_agent(id, vm, generation),
            Effect::Exit => self.is_over = true,
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
