//! Numbers of virtual machines: the same for the same name and user, for as long as the file with them is there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stockade_api::VmId;

/// The numbers that were given out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Ids {
    ids: BTreeMap<(String, u32), VmId>,
}

/// One of them, in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    name: String,
    uid: u32,
    id: VmId,
}

impl Ids {
    /// The number of `name` when user `uid` has it, root for what is configured, and whether it is new. `None` if every number was
    /// given out.
    pub fn claim(&mut self, name: &str, uid: u32) -> Option<(VmId, bool)> {
        let key = (name.to_owned(), uid);
        if let Some(id) = self.ids.get(&key) {
            return Some((*id, false));
        }
        let highest = self.ids.values().max().map_or(0, |id| id.0);
        let id = VmId(highest.checked_add(1)?);
        self.ids.insert(key, id);
        Some((id, true))
    }
}

impl From<Vec<Entry>> for Ids {
    fn from(entries: Vec<Entry>) -> Self {
        Self { ids: entries.into_iter().map(|Entry { name, uid, id }| ((name, uid), id)).collect() }
    }
}

impl From<Ids> for Vec<Entry> {
    fn from(ids: Ids) -> Self {
        ids.ids.into_iter().map(|((name, uid), id)| Entry { name, uid, id }).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_user_have_one_number_for_ever() {
        let mut ids = Ids::default();
        assert_eq!(ids.claim("a", 0), Some((VmId(1), true)));
        assert_eq!(ids.claim("a", 7), Some((VmId(2), true)));
        assert_eq!(ids.claim("a", 0), Some((VmId(1), false)));
        let mut read: Ids = serde_json::from_str(&serde_json::to_string(&ids).unwrap()).unwrap();
        assert_eq!(read, ids);
        assert_eq!(read.claim("b", 0), Some((VmId(3), true)));
        read.ids.insert(("z".into(), 0), VmId(u32::MAX));
        assert_eq!(read.claim("c", 0), None);
        assert_eq!(read.claim("z", 0), Some((VmId(u32::MAX), false)));
    }
}
