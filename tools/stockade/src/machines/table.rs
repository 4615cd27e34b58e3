//! Virtual machines as a table that fits the terminal: vmctl's columns, as many as there is room for.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use stockade_api::VmSummary;
use stockade_supervisor::text::printable;

use super::memory;
use super::words::{Names, age, since, size};

/// Names get at least as many characters before a column gives way to them.
const NAME_CHARACTERS: usize = 24;

/// A column, or what is in it.
const HEADINGS: [&str; 9] = ["ID", "PID", "VCPUS", "MAXMEM", "CURMEM", "UP", "OWNER", "STATE", "NAME"];

/// Columns that there always are: their places in [`HEADINGS`].
const INDISPENSABLE: [usize; 3] = [0, 7, 8];

/// The other ones, the one that says most first.
const DISPENSABLE: [usize; 6] = [6, 3, 5, 1, 2, 4];

/// A table of `vms`, no wider than `width` if there is one.
pub fn render(vms: &[VmSummary], names: &Names, width: Option<u16>) -> String {
    let rows: Vec<_> = vms.iter().map(|vm| cells(vm, names)).collect();
    let columns = columns(&rows, width);
    let mut table = Table::new();
    table.load_preset(NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(columns.iter().filter_map(|&column| HEADINGS.get(column)));
    table.add_rows(rows.iter().map(|row| columns.iter().filter_map(|&column| row.get(column)).collect::<Vec<_>>()));
    let last = columns.len().saturating_sub(1);
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, u16::from(place < last)));
        if place < last {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        } else if width.is_some() {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(1)));
        }
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What is in the columns of one row. Names are somebody else's text.
fn cells(vm: &VmSummary, names: &Names) -> [String; HEADINGS.len()] {
    let dash = || "-".to_owned();
    let pid = vm.pid.filter(|_| vm.state.is_live());
    let up = vm.started_ms.filter(|_| vm.state.is_live());
    [
        vm.id.to_string(),
        pid.map_or_else(dash, |pid| pid.to_string()),
        vm.cpus.to_string(),
        size(vm.memory_mib),
        pid.and_then(memory::resident_mib).map_or_else(dash, size),
        up.map_or_else(dash, |at| age(since(at))),
        printable(&names.owner(vm.owner)),
        vm.state.to_string(),
        printable(&vm.name),
    ]
}

/// The columns that there is room for.
fn columns(rows: &[[String; HEADINGS.len()]], width: Option<u16>) -> Vec<usize> {
    let is_name = |column: usize| column + 1 == HEADINGS.len();
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let widest = cells.chain(HEADINGS.get(column).map(|heading| heading.len())).max().unwrap_or(0);
        if is_name(column) { widest.min(NAME_CHARACTERS) } else { widest + 1 }
    };
    let Some(width) = width else { return (0..HEADINGS.len()).collect() };
    let mut columns = INDISPENSABLE.to_vec();
    let mut taken: usize = columns.iter().map(|&column| widest(column)).sum();
    for column in DISPENSABLE {
        if taken + widest(column) <= width.into() {
            taken += widest(column);
            columns.push(column);
        }
    }
    columns.sort_unstable();
    columns
}

#[cfg(test)]
mod tests {
    use stockade_api::{Owner, VmId, VmState};

    use super::*;

    fn vm(id: u32, name: &str, state: VmState) -> VmSummary {
        VmSummary {
            id: VmId(id),
            name: name.into(),
            state,
            generation: 1,
            owner: Owner { uid: 0xffff_0000, gid: Some(0xffff_0001) },
            run_by: None,
            cpus: 2,
            memory_mib: 1536,
            disks: 0,
            interfaces: Vec::new(),
            configured: true,
            pid: state.is_live().then_some(-1),
            jail: None,
            started_ms: state.is_live().then_some(u64::MAX),
            last_exit: None,
            last_error: None,
        }
    }

    #[test]
    fn columns_are_those_of_vmctl() {
        let vms = [vm(1, "web", VmState::Running), vm(12, "db", VmState::Stopped)];
        let text = render(&vms, &Names::default(), None);
        let expected = "\
ID PID VCPUS MAXMEM CURMEM UP                 OWNER   STATE NAME
 1  -1     2   1.5G      - 0s 4294901760:4294901761 running web
12   -     2   1.5G      -  - 4294901760:4294901761 stopped db
";
        assert_eq!(text, expected, "\n{text}");
        assert_eq!(render(&[], &Names::default(), None), "ID PID VCPUS MAXMEM CURMEM UP OWNER STATE NAME\n");
    }

    #[test]
    fn a_table_fits_any_terminal_and_keeps_number_state_and_whole_name() {
        let name = format!("n{}", "0123456789".repeat(6));
        let vms = [vm(1, &name, VmState::Running)];
        for width in [12, 20, 40, 60, 80, 200] {
            let text = render(&vms, &Names::default(), Some(width));
            if width >= 20 {
                assert!(text.lines().all(|line| line.chars().count() <= width.into()), "{width}:\n{text}");
            }
            assert!(text.contains("STATE") && text.contains("ID"), "{width}:\n{text}");
            let letters: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
            let digits: String = letters.split_once('n').map(|(_, rest)| rest.into()).unwrap_or_default();
            assert!(digits.contains("ning") && letters.matches("0123456789").count() >= 1, "{width}:\n{text}");
        }
    }

    #[test]
    fn what_matters_less_goes_first() {
        let vms = [vm(1, "web", VmState::Running)];
        let header = |width| {
            let text = render(&vms, &Names::default(), Some(width));
            text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(header(80), HEADINGS.join(" "));
        assert_eq!(header(60), "ID PID VCPUS MAXMEM UP OWNER STATE NAME");
        assert_eq!(header(40), "ID UP OWNER STATE NAME");
        assert_eq!(header(30), "ID PID MAXMEM UP STATE NAME");
        assert_eq!(header(16), "ID STATE NAME");
    }

    #[test]
    fn names_do_nothing_to_a_terminal() {
        let text = render(&[vm(1, "a\x1b[2J\nb\u{202e}c", VmState::Running)], &Names::default(), None);
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("a\u{fffd}[2J\u{fffd}b\u{fffd}c\n"), "{text:?}");
    }
}
