//! Ethernet addresses of guests: those of vm.conf, and for each other interface one that no other has.
//!
//! An address that is not given is `fe:e1` and 32 bits of a hash of host, user, name and interface: it is the same after each
//! restart, another on each host, and so differs between hosts on one network, too. One that is taken is passed over for
//! the hash of the next attempt. `fe` makes it a locally administered address of one station (IEEE 802-2014, 8.4).

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use stockade_api::VmId;
use stockade_config::model::{Interface, MacAddress};

use super::{Record, Table};

impl Table {
    /// Gives each interface of one an address. One that was given out before stays.
    pub(super) fn assign_addresses(&mut self, id: VmId) {
        let Some(record) = self.record(id) else { return };
        let given = record.definition.interfaces.iter().filter_map(|interface| interface.lladdr);
        let configured = self.config.vms.iter().flat_map(|vm| &vm.definition.interfaces);
        let others = self.records().filter(|other| other.id != id).flat_map(|other| other.lladdrs.iter().copied());
        let taken = others.chain(given).chain(configured.filter_map(|interface| interface.lladdr)).collect();
        let lladdrs = assign(record, taken, self.host.identity);
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.record.lladdrs = lladdrs;
        }
    }
}

fn assign(record: &Record, mut taken: BTreeSet<MacAddress>, host: u128) -> Vec<MacAddress> {
    let number = |(interface, index): (&Interface, u32)| {
        let before = usize::try_from(index).ok().and_then(|index| record.lladdrs.get(index)).copied();
        let address = interface.lladdr.or(before.filter(|address| !taken.contains(address)));
        let address = address.or_else(|| {
            let candidates = (0..u32::MAX).filter_map(|attempt| candidate(record, host, index, attempt));
            candidates.into_iter().find(|address| !taken.contains(address))
        });
        taken.extend(address);
        address
    };
    record.definition.interfaces.iter().zip(0..).filter_map(number).collect()
}

fn candidate(record: &Record, host: u128, interface: u32, attempt: u32) -> Option<MacAddress> {
    let mut hash = Sha256::new_with_prefix("stockade lladdr");
    hash.update(host.to_le_bytes());
    hash.update(record.definition.owner.uid.to_le_bytes());
    hash.update(interface.to_le_bytes());
    hash.update(attempt.to_le_bytes());
    hash.update(record.name.as_str());
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, ..] = hash;
    MacAddress::new([0xfe, 0xe1, a, b, c, d])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use stockade_config::model::StartPolicy;

    use super::super::tests::{Play, record, vm};
    use super::*;

    fn with(count: usize) -> Record {
        let mut record = record("web");
        record.definition.interfaces = vec![Interface::default(); count];
        record
    }

    #[test]
    fn addresses_are_stable_and_differ() {
        let record = with(4);
        let addresses = assign(&record, BTreeSet::new(), 7);
        assert_eq!(addresses.len(), 4);
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 4);
        assert!(addresses.iter().all(|address| address.bytes().starts_with(&[0xfe, 0xe1])));
        assert_eq!(assign(&record, BTreeSet::new(), 7), addresses);
        assert_ne!(assign(&record, BTreeSet::new(), 8), addresses, "another host");
    }

    #[test]
    fn what_is_taken_is_passed_over_and_what_was_given_out_stays() {
        let mut record = with(1);
        let first = assign(&record, BTreeSet::new(), 7);
        let second = assign(&record, first.iter().copied().collect(), 7);
        assert_ne!(first, second);
        record.lladdrs.clone_from(&second);
        assert_eq!(assign(&record, BTreeSet::new(), 7), second);
    }

    #[test]
    fn no_two_machines_have_the_same() {
        let with_interface = |name: &str, lladdr: Option<MacAddress>| {
            let mut vm = vm(name, StartPolicy::Disabled);
            vm.definition.interfaces = vec![Interface { lladdr, ..Interface::default() }];
            vm
        };
        let addresses =
            |play: &Play| -> Vec<_> { play.table.records().flat_map(|record| record.lladdrs.clone()).collect() };
        let of_web = addresses(&Play::with(vec![with_interface("web", None)]))[0];
        // The address that web would get is somebody else's by the configuration, whichever comes first there.
        let (web, db) = (with_interface("web", None), with_interface("db", Some(of_web)));
        for vms in [vec![web.clone(), db.clone()], vec![db, web]] {
            let addresses = addresses(&Play::with(vms));
            assert_eq!(addresses.len(), 2);
            assert!(addresses.contains(&of_web));
            assert_ne!(addresses[0], addresses[1]);
        }
    }

    #[test]
    fn an_address_of_the_configuration_is_used_as_it_is() {
        let mut record = with(2);
        let own = assign(&record, BTreeSet::new(), 7)[1];
        record.definition.interfaces[0].lladdr = Some(own);
        let addresses = assign(&record, [own].into(), 7);
        assert_eq!(addresses[0], own);
        assert_ne!(addresses[1], own);
    }
}
