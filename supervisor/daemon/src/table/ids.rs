//! Numbers of virtual machines: the same for the same name and user, for as long as the file with them is there. With each goes
//! the generation that it had when it was forgotten, so that none of its starts ever has the number of another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stockade_api::VmId;

/// The numbers that were given out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Ids {
    numbers: BTreeMap<(String, u32), Number>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    id: VmId,
    generation: u64,
}

/// What a virtual machine gets that is new, or comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its number.
    pub id: VmId,
    /// How often it was started until it was forgotten the last time.
    pub generation: u64,
    /// Whether the number is new.
    pub is_new: bool,
}

/// One of them, in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    name: String,
    uid: u32,
    id: VmId,
    #[serde(default)]
    generation: u64,
}

impl Ids {
    /// The number of `name` when user `uid` has it, root for what is configured. `None` if every number was given out.
    pub fn claim(&mut self, name: &str, uid: u32) -> Option<Claim> {
        let key = (name.to_owned(), uid);
        if let Some(Number { id, generation }) = self.numbers.get(&key).copied() {
            return Some(Claim { id, generation, is_new: false });
        }
        let highest = self.numbers.values().map(|number| number.id.0).max().unwrap_or(0);
        let id = VmId(highest.checked_add(1)?);
        self.numbers.insert(key, Number { id, generation: 0 });
        Some(Claim { id, generation: 0, is_new: true })
    }

    /// Notes how often one was started that is forgotten now. Returns whether that is new.
    pub fn note_generation(&mut self, name: &str, uid: u32, generation: u64) -> bool {
        let Some(number) = self.numbers.get_mut(&(name.to_owned(), uid)) else { return false };
        let is_new = generation > number.generation;
        number.generation = number.generation.max(generation);
        is_new
    }
}

impl From<Vec<Entry>> for Ids {
    fn from(entries: Vec<Entry>) -> Self {
        let number = |entry: Entry| ((entry.name, entry.uid), Number { id: entry.id, generation: entry.generation });
        Self { numbers: entries.into_iter().map(number).collect() }
    }
}

impl From<Ids> for Vec<Entry> {
    fn from(ids: Ids) -> Self {
        let entry = |((name, uid), Number { id, generation })| Entry { name, uid, id, generation };
        ids.numbers.into_iter().map(entry).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_again(ids: &Ids) -> Ids {
        serde_json::from_str(&serde_json::to_string(ids).unwrap()).unwrap()
    }

    #[test]
    fn a_name_and_a_user_have_one_number_for_ever() {
        let mut ids = Ids::default();
        let claim = |id, is_new| Some(Claim { id: VmId(id), generation: 0, is_new });
        assert_eq!(ids.claim("a", 0), claim(1, true));
        assert_eq!(ids.claim("a", 7), claim(2, true));
        assert_eq!(ids.claim("a", 0), claim(1, false));
        let mut read = read_again(&ids);
        assert_eq!(read, ids);
        assert_eq!(read.claim("b", 0), claim(3, true));
        read.numbers.insert(("z".into(), 0), Number { id: VmId(u32::MAX), generation: 0 });
        assert_eq!(read.claim("c", 0), None);
        assert_eq!(read.claim("z", 0), claim(u32::MAX, false));
    }

    #[test]
    fn starts_are_counted_on() {
        let mut ids = Ids::default();
        ids.claim("a", 0);
        assert!(ids.note_generation("a", 0, 3));
        assert!(!ids.note_generation("a", 0, 3));
        assert!(!ids.note_generation("a", 0, 2));
        assert!(!ids.note_generation("a", 7, 2), "nobody has that");
        assert_eq!(read_again(&ids).claim("a", 0), Some(Claim { id: VmId(1), generation: 3, is_new: false }));
        let old = r#"[{"name":"a","uid":0,"id":9}]"#;
        let claim = serde_json::from_str::<Ids>(old).unwrap().claim("a", 0);
        assert_eq!(claim, Some(Claim { id: VmId(9), generation: 0, is_new: false }));
    }
}
