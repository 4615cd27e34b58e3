//! The parent's side of `net`: asks for what is to be known about switches, and warns of those that can't be used.

use std::collections::BTreeMap;

use stockade_api::{Error, ErrorCode, Link, SwitchSummary};
use stockade_config::model::{LinkState, StartPolicy, Switch};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::frame::{FromNet, MOST_INTERFACES, Question, ToNet};
use crate::roles::channel::{Channel, ChannelError};
use crate::roles::frame::FrameError;
use crate::roles::keeper::Attendant;
use crate::table::{Input, RequestId};

/// Most questions that are not answered. All of them fit in the socket at once, so that the parent never waits for `net` to
/// read while `net` waits for it to.
const MOST_ASKED: usize = 8;

/// What is wanted of `net`.
#[derive(Debug)]
pub enum Order {
    /// These are the switches from now on.
    Watch(Vec<Switch>),
    /// Fills in the links of these, for a request.
    Look {
        /// Whose answer it is.
        request: RequestId,
        /// The switches.
        switches: Vec<SwitchSummary>,
    },
}

/// Asks `net`.
#[derive(Debug)]
pub struct Watcher {
    orders: UnboundedReceiver<Order>,
    inputs: UnboundedSender<Input>,
    switches: Vec<Switch>,
    asked: BTreeMap<Question, (RequestId, Vec<SwitchSummary>)>,
    last: Question,
}

impl Watcher {
    /// Carries out `orders`; answers become inputs.
    pub fn new(orders: UnboundedReceiver<Order>, inputs: UnboundedSender<Input>) -> Self {
        Self { orders, inputs, switches: Vec::new(), asked: BTreeMap::new(), last: 0 }
    }

    fn watch(&self) -> ToNet {
        let used = self.switches.iter().filter(|switch| switch.start == StartPolicy::Enabled);
        let interfaces = used.take(MOST_INTERFACES).map(|switch| switch.interface.clone()).collect();
        ToNet::Watch { interfaces }
    }

    /// Takes an order. Returns what `net` is told for that.
    fn take(&mut self, order: Order) -> ToNet {
        match order {
            Order::Watch(switches) => {
                self.switches = switches;
                self.watch()
            }
            Order::Look { request, mut switches } => {
                switches.truncate(MOST_INTERFACES);
                self.last = self.last.saturating_add(1);
                let interfaces = switches.iter().map(|switch| switch.interface.clone()).collect();
                self.asked.insert(self.last, (request, switches));
                ToNet::Look { question: self.last, interfaces }
            }
        }
    }

    fn hear(&mut self, message: FromNet) -> Result<(), FrameError> {
        match message {
            FromNet::Ready => Err(FrameError::Malformed),
            FromNet::Changed { links } => {
                for (interface, link) in links {
                    // One that was watched until a moment ago is nobody's.
                    let switches = self.switches.iter().filter(|switch| switch.interface == interface);
                    switches.for_each(|switch| report(switch, link));
                }
                Ok(())
            }
            FromNet::Links { question, links } => {
                let (request, mut switches) = self.asked.remove(&question).ok_or(FrameError::Malformed)?;
                let fits = switches.len() == links.len();
                for (switch, link) in switches.iter_mut().zip(links) {
                    switch.link = link;
                }
                let answer = if fits { Ok(switches) } else { Err(interrupted()) };
                let _ = self.inputs.send(Input::SwitchesLookedUp { request, answer });
                if fits { Ok(()) } else { Err(FrameError::Malformed) }
            }
        }
    }
}

impl Attendant for Watcher {
    type Says = ToNet;
    type Hears = FromNet;

    async fn attend(&mut self, channel: &Channel<ToNet, FromNet>) -> ChannelError {
        match channel.receive().await {
            Ok((FromNet::Ready, _)) => {}
            Ok(_) => return FrameError::Malformed.into(),
            Err(error) => return error,
        }
        if let Err(error) = channel.send(&self.watch(), &[]).await {
            return error;
        }
        loop {
            let result = tokio::select! {
                heard = channel.receive() => match heard {
                    Ok((message, _)) => self.hear(message).map_err(ChannelError::from),
                    Err(error) => Err(error),
                },
                Some(order) = self.orders.recv(), if self.asked.len() < MOST_ASKED => {
                    let message = self.take(order);
                    channel.send(&message, &[]).await
                }
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    fn bereave(&mut self) {
        // Who has asked by now is not kept waiting for the next life.
        while let Ok(order) = self.orders.try_recv() {
            self.take(order);
        }
        for (request, _) in std::mem::take(&mut self.asked).into_values() {
            let _ = self.inputs.send(Input::SwitchesLookedUp { request, answer: Err(interrupted()) });
        }
    }
}

fn interrupted() -> Error {
    let message = "the part of the daemon that knows the host's interfaces was restarted before it could answer";
    Error::new(ErrorCode::Interrupted, message, "ask again")
}

/// Says in the log what the host has in the place of a switch.
fn report(switch: &Switch, link: Option<Link>) {
    let (name, interface) = (&switch.name, &switch.interface);
    match link {
        None => log::warn!(
            "switch \"{name}\": there is no interface {interface}; make it: ip link add name {interface} type bridge"
        ),
        Some(Link { bridge: false, .. }) => {
            log::warn!("switch \"{name}\": {interface} is no bridge; name another interface in vm.conf");
        }
        Some(Link { up: false, .. }) if switch.link == LinkState::Up => {
            log::warn!("switch \"{name}\": the bridge {interface} is down; ip link set {interface} up");
        }
        Some(Link { up, mtu, .. }) => {
            let state = if up { "up" } else { "down" };
            log::info!("switch \"{name}\": the bridge {interface} is {state}, its MTU {mtu}");
        }
    }
}
