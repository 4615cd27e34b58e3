//! What `net` does: follows what the kernel tells, and answers the parent.

use std::collections::BTreeMap;

use stockade_api::Link;

use super::frame::{FromNet, ToNet};
use super::links::{Links, Next};
use super::socket::{Received, Routes};
use crate::roles::channel::Channel;

/// Interfaces that are watched, and what the parent was told of them last.
type Watched = BTreeMap<String, Option<Option<Link>>>;

/// Serves the parent until it is gone.
pub(super) async fn serve(channel: &Channel<FromNet, ToNet>, routes: &Routes) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("ask for interfaces: {error}");
    let (mut links, mut watched) = (Links::default(), Watched::new());
    let mut is_ready = false;
    links.begin();
    routes.ask_for_all().map_err(failed)?;
    loop {
        let received = tokio::select! {
            // Nobody is answered before everything is known.
            heard = channel.receive(), if is_ready => {
                let (message, _) = heard.map_err(|error| error.to_string())?;
                if let Some(answer) = hear(message, &links, &mut watched) {
                    say(channel, &answer).await?;
                }
                tell(channel, &links, &mut watched).await?;
                continue;
            }
            received = routes.receive() => received.map_err(failed)?,
        };
        let next = match received {
            Received::Packet(packet) => links.note(&packet),
            Received::Lost => Next::Again,
        };
        match next {
            Next::More => {}
            Next::Complete if !is_ready => {
                is_ready = true;
                say(channel, &FromNet::Ready).await?;
            }
            Next::Complete => {}
            Next::Again => {
                links.begin();
                routes.ask_for_all().map_err(failed)?;
            }
            Next::Refused(errno) => return Err(failed(std::io::Error::from_raw_os_error(errno.saturating_abs()))),
        }
        tell(channel, &links, &mut watched).await?;
    }
}

/// Does what the parent says. Returns what it gets for that.
fn hear(message: ToNet, links: &Links, watched: &mut Watched) -> Option<FromNet> {
    match message {
        ToNet::Watch { interfaces } => {
            *watched = interfaces.into_iter().map(|interface| (interface, None)).collect();
            None
        }
        ToNet::Look { question, interfaces } => {
            let links = interfaces.iter().map(|interface| links.get(interface)).collect();
            Some(FromNet::Links { question, links })
        }
    }
}

/// Tells of what is watched and is not as the parent knows it.
async fn tell(channel: &Channel<FromNet, ToNet>, links: &Links, watched: &mut Watched) -> Result<(), String> {
    let mut changed = Vec::new();
    for (interface, told) in watched {
        let link = links.get(interface);
        if told.replace(link) != Some(link) {
            changed.push((interface.clone(), link));
        }
    }
    if changed.is_empty() { Ok(()) } else { say(channel, &FromNet::Changed { links: changed }).await }
}

async fn say(channel: &Channel<FromNet, ToNet>, message: &FromNet) -> Result<(), String> {
    channel.send(message, &[]).await.map_err(|error| error.to_string())
}
