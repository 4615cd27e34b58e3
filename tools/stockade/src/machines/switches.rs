//! `stockade switches`.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use stockade_api::{Link, SwitchSummary};
use stockade_client::Client;
use stockade_supervisor::text::printable;

use super::output::{Outcome, Output};

/// Shows all.
pub async fn switches(client: &Client, output: Output) -> Outcome {
    let switches = client.switches().await?;
    if output.is_json() { output.document(&switches) } else { output.text(&render(&switches)) }
}

fn render(switches: &[SwitchSummary]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["NAME", "INTERFACE", "MTU", "STATE"]);
    table.add_rows(switches.iter().map(|switch| {
        let mtu = switch.link.map_or_else(|| "-".to_owned(), |link| link.mtu.to_string());
        [printable(&switch.name), printable(&switch.interface), mtu, state(switch).to_owned()]
    }));
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What is the matter with it, the worst first.
fn state(switch: &SwitchSummary) -> &'static str {
    match switch.link {
        _ if !switch.enabled => "disabled",
        None => "missing",
        Some(Link { bridge: false, .. }) => "no bridge",
        Some(Link { up: false, .. }) => "down",
        Some(_) => "up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_word() {
        let link = Link { bridge: true, up: true, mtu: 1500 };
        let switch =
            |name: &str, enabled, link| SwitchSummary { name: name.into(), interface: "br0".into(), enabled, link };
        let switches = [
            switch("a", true, Some(link)),
            switch("b", true, Some(Link { up: false, ..link })),
            switch("c", true, Some(Link { bridge: false, ..link })),
            switch("d", true, None),
            switch("e\x1b[2J", false, None),
        ];
        let text = render(&switches);
        let rows: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "NAME INTERFACE MTU STATE",
            "a br0 1500 up",
            "b br0 1500 down",
            "c br0 1500 no bridge",
            "d br0 - missing",
            "e\u{fffd}[2J br0 - disabled",
        ];
        assert_eq!(rows, expected, "\n{text}");
    }
}
