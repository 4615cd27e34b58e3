//! The attempts, by what they are after.

mod descriptors;
mod files;
mod information;
mod kernel;
mod mounts;
mod neighbours;
mod network;
mod own;
mod persistence;
mod privileges;
mod processes;
mod resources;

use stockade_prisoner::Group;

use crate::attempt::Attempt;

/// Every attempt, and what it is after.
pub fn all() -> impl Iterator<Item = (Group, &'static Attempt)> {
    let tables = [
        (Group::Files, files::ATTEMPTS),
        (Group::Files, descriptors::ATTEMPTS),
        (Group::Files, mounts::ATTEMPTS),
        (Group::Files, own::ATTEMPTS),
        (Group::Processes, processes::ATTEMPTS),
        (Group::Neighbours, neighbours::ATTEMPTS),
        (Group::Network, network::ATTEMPTS),
        (Group::Kernel, kernel::ATTEMPTS),
        (Group::Privileges, privileges::ATTEMPTS),
        (Group::Resources, resources::ATTEMPTS),
        (Group::Persistence, persistence::ATTEMPTS),
        (Group::Information, information::ATTEMPTS),
    ];
    tables.into_iter().flat_map(|(group, attempts)| attempts.iter().map(move |attempt| (group, attempt)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_enough_and_each_has_a_name_of_its_own() {
        let names: HashSet<_> = all().map(|(_, attempt)| attempt.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 120, "{}", names.len());
        for group in Group::ALL {
            assert!(all().filter(|(of, _)| *of == group).count() >= 10, "{group}");
        }
    }
}
