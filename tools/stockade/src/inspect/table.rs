//! An inspection as tables that fit a page: the verdict first, then what it is made of.
//!
//! Names and paths are the inspected process's own, so nothing of them reaches the terminal as it is.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table, TableComponent};
use stockade_confinement::{Descriptor, DescriptorKind, Seccomp, Thread};
use stockade_supervisor::inspection::Inspection;
use stockade_supervisor::text::printable;

use super::facts;

/// Columns of the widest line.
const WIDTH: u16 = 100;

/// The layers of a process of the daemon's; [`render`] has all the rest, by its number.
pub fn of_role(inspection: &Inspection) -> String {
    let name = inspection.record.as_ref().map(|record| record.id.as_str()).unwrap_or_default();
    format!("{}: {}", printable(name), verdict(inspection))
}

/// The whole of it.
pub fn render(inspection: &Inspection) -> String {
    let process = &inspection.process;
    let vm = inspection.vm.as_ref().map_or(String::new(), |vm| format!("VM {}: ", printable(vm)));
    let facts = facts::of(inspection).into_iter().map(|(name, text)| [name.to_owned(), text]);
    let tables = [
        table(["of the process", ""], facts),
        table(["thread", "name", "user", "capabilities", "filters"], process.threads.iter().map(thread)),
        table(["descriptor", "what", "access", "which"], process.descriptors.iter().map(descriptor)),
    ];
    format!("{vm}{}\n\n{}", verdict(inspection), tables.join("\n\n"))
}

fn verdict(inspection: &Inspection) -> String {
    let process = &inspection.process;
    let program = printable(process.program.as_deref().unwrap_or("a program of the kernel's"));
    let layers = inspection.verdict.layers.iter();
    let layers = layers.map(|layer| [layer.layer.name().to_owned(), layer.state.name().to_owned(), layer.text.clone()]);
    let layers = table(["layer", "state", "what the kernel says"], layers);
    format!("process {}, {program}\n{}\n\n{layers}", process.pid, inspection.verdict.summary)
}

fn table<const N: usize>(headings: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_style(TableComponent::HeaderLines, '─').set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header(headings);
    // Every cell may have somebody else's text.
    table.add_rows(rows.map(|row| row.map(|cell| printable(&cell))));
    let lines = table.to_string();
    let ends: Vec<_> = lines.lines().map(str::trim_end).collect();
    ends.join("\n")
}

fn thread(thread: &Thread) -> [String; 5] {
    let status = &thread.status;
    let filters = match (status.seccomp, status.seccomp_filters) {
        (Seccomp::Off, _) => "NONE".to_owned(),
        (Seccomp::Strict, _) => "strict mode".to_owned(),
        (Seccomp::Filter | Seccomp::Violated, Some(count)) => count.to_string(),
        (Seccomp::Filter | Seccomp::Violated, None) => "some".to_owned(),
    };
    let worker = if thread.kernel_worker { " (the kernel's)" } else { "" };
    let name = format!("{}{worker}", status.name);
    [thread.id.to_string(), name, facts::ids(status.uid), status.capabilities.effective.to_string(), filters]
}

fn descriptor(descriptor: &Descriptor) -> [String; 4] {
    let Descriptor { number, kind, target, access, socket } = descriptor;
    let which = match socket {
        Some(socket) => {
            let listening = if socket.listening { "listening " } else { "" };
            let address = socket.address.as_ref().map_or(String::new(), |address| format!(" {address}"));
            format!("{listening}{} {}{address}", socket.domain, socket.r#type)
        }
        None => target.clone(),
    };
    // The number that the kernel has for it says nothing to a reader.
    let which = if *kind == DescriptorKind::Pipe && which.starts_with("pipe:") { String::new() } else { which };
    [number.to_string(), kind.name().to_owned(), access.name().to_owned(), which]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_a_page_and_its_text_does_nothing_to_a_terminal() {
        let long = "word ".repeat(60);
        let text = table(["a", "b"], [["x\x1b[2J".to_owned(), long], ["y".to_owned(), "z".repeat(300)]].into_iter());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH.into()), "{text}");
        assert!(!text.contains('\x1b') && text.contains("x\u{fffd}[2J"));
    }

    #[test]
    fn an_inspection_of_this_test_is_whole_and_fits_a_page() {
        let own = stockade_supervisor::inspection::inspect(&std::process::id().to_string()).unwrap();
        let text = render(&own);
        assert!(text.lines().skip(1).all(|line| line.chars().count() <= WIDTH.into()), "{text}");
        for part in ["landlock", "no record", "namespaces", "no_new_privs", "descriptor", "not confined", "open files"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
