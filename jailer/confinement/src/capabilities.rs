//! Sets of capabilities (capabilities(7)).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many it has.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Their names, in the kernel's order; one that is newer than this program goes by its number.
    pub fn names(self) -> Vec<String> {
        let known = caps::all();
        let name = |bit: u32| {
            let capability = known.iter().find(|capability| u32::from(capability.index()) == bit);
            capability.map_or_else(|| format!("CAP_{bit}"), ToString::to_string)
        };
        (0..u64::BITS).filter(|bit| self.0 >> bit & 1 == 1).map(name).collect()
    }
}

/// Names of few, the number of many.
impl fmt::Display for CapabilitySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FEW: u32 = 3;
        match self.len() {
            0 => formatter.write_str("none"),
            1..=FEW => formatter.write_str(&self.names().join(" ")),
            many => write!(formatter, "{many} capabilities"),
        }
    }
}

impl Serialize for CapabilitySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for CapabilitySet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let bit = |name: &String| (0..u64::BITS).map(|bit| 1 << bit).find(|set| Self(*set).names().contains(name));
        let set = |name: &String| bit(name).ok_or_else(|| de::Error::custom(format_args!("{name} is no capability")));
        names.iter().try_fold(Self::default(), |all, name| Ok(Self(all.0 | set(name)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_names() {
        assert_eq!(CapabilitySet(0).to_string(), "none");
        assert_eq!(CapabilitySet(0x20_1001).names(), ["CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert_eq!(CapabilitySet(1 << 63).to_string(), "CAP_63");
        assert_eq!(CapabilitySet(0x1ff_ffff_ffff).to_string(), "41 capabilities");
        assert_eq!(CapabilitySet(u64::MAX).names().len(), 64);
        for set in [CapabilitySet(0), CapabilitySet(1 << 63 | 1 << 12 | 1)] {
            let text = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<CapabilitySet>(&text).unwrap(), set);
        }
        assert!(serde_json::from_str::<CapabilitySet>(r#"["CAP_EVERYTHING"]"#).is_err());
    }
}
