//! CPU templates: what a guest shall see in CPUID and in model specific registers, laid over what the host offers.
//!
//! The JSON is Firecracker's `PUT /cpu-config` body for x86_64. A number is a string with the prefix `0x` or `0b`, a bitmap
//! is `0b` followed by one character a bit, highest first: `0` and `1` set the bit, `x` keeps the host's, `_` is ignored;
//! bits left of the first character are kept.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A custom CPU template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTemplate {
    /// Capabilities to add to or take from those that the vmm requires of KVM.
    #[serde(default)]
    pub kvm_capabilities: Vec<KvmCapability>,
    /// Changes to CPUID.
    #[serde(default)]
    pub cpuid_modifiers: Vec<CpuidLeafModifier>,
    /// Changes to model specific registers.
    #[serde(default)]
    pub msr_modifiers: Vec<MsrModifier>,
}

/// The named templates of Firecracker's `cpu_template` field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StaticCpuTemplate {
    /// Intel Skylake to Ice Lake as EC2's C3.
    C3,
    /// Intel Skylake to Ice Lake as EC2's T2.
    T2,
    /// As T2, for snapshots that move between Skylake and Cascade Lake.
    T2S,
    /// Intel Cascade Lake and newer.
    T2CL,
    /// AMD Milan, as T2CL.
    T2A,
    /// Arm Neoverse V1 as N1.
    V1N1,
    /// What the host offers.
    #[default]
    None,
}

/// One entry of `kvm_capabilities`: a number of `KVM_CAP_*`, as `"121"` or `"!121"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmCapability {
    /// KVM must have it, else the machine is not built.
    Require(u32),
    /// The machine is built even if KVM lacks it.
    Waive(u32),
}

/// Changes to one leaf of CPUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidLeafModifier {
    /// Input EAX.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_number")]
    pub leaf: u32,
    /// Input ECX.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_number")]
    pub subleaf: u32,
    /// `flags` of `struct kvm_cpuid_entry2`: 1 if the subleaf is significant.
    pub flags: u32,
    /// Changes to its registers.
    pub modifiers: Vec<CpuidRegisterModifier>,
}

/// Changes to one output register of a CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidRegisterModifier {
    /// Which.
    pub register: CpuidRegister,
    /// The bits to set and to clear.
    pub bitmap: Bitmap<u32>,
}

/// An output register of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuidRegister {
    /// EAX
    Eax,
    /// EBX
    Ebx,
    /// ECX
    Ecx,
    /// EDX
    Edx,
}

impl fmt::Display for CpuidRegister {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Eax => "eax",
            Self::Ebx => "ebx",
            Self::Ecx => "ecx",
            Self::Edx => "edx",
        })
    }
}

/// Changes to one model specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsrModifier {
    /// Its index.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_number")]
    pub addr: u32,
    /// The bits to set and to clear.
    pub bitmap: Bitmap<u64>,
}

/// Bits to set or clear in a register of type `N`. Only bits within `mask` are set in `value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bitmap<N> {
    /// The bits that the template decides.
    pub mask: N,
    /// Their values.
    pub value: N,
}

/// A template's number, bitmap or capability that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuTemplateError {
    /// Neither hexadecimal nor binary.
    #[error("number {0:?} needs the prefix 0x (hexadecimal) or 0b (binary) and must fit 32 bits")]
    Number(String),
    /// A bitmap without `0b`.
    #[error("bitmap {0:?} must begin with 0b")]
    BitmapPrefix(String),
    /// A bitmap with another character.
    #[error("bitmap {bitmap:?} has the character {found:?}: use 0, 1, x (keep the host's bit) or _ (ignored)")]
    BitmapCharacter {
        /// The whole bitmap.
        bitmap: String,
        /// The character.
        found: char,
    },
    /// A bitmap wider than its register.
    #[error("bitmap {bitmap:?} is wider than the register's {width} bits")]
    BitmapWidth {
        /// The whole bitmap.
        bitmap: String,
        /// Bits of the register.
        width: u32,
    },
    /// Not a capability.
    #[error("capability {0:?} must be a decimal number of KVM_CAP_*, or one after ! to waive it")]
    Capability(String),
}

macro_rules! bitmap_of {
    ($number:ty) => {
        impl Bitmap<$number> {
            /// Lays the bitmap over `host`.
            pub const fn apply(self, host: $number) -> $number {
                (host & !self.mask) | (self.value & self.mask)
            }
        }

        impl FromStr for Bitmap<$number> {
            type Err = CpuTemplateError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bits = text.strip_prefix("0b").ok_or_else(|| CpuTemplateError::BitmapPrefix(text.to_owned()))?;
                let mut bitmap = Self { mask: 0, value: 0 };
                let mut bit: $number = 1;
                for character in bits.chars().rev().filter(|&character| character != '_') {
                    if bit == 0 {
                        return Err(CpuTemplateError::BitmapWidth { bitmap: text.to_owned(), width: <$number>::BITS });
                    }
                    match character {
                        '0' => bitmap.mask |= bit,
                        '1' => {
                            bitmap.mask |= bit;
                            bitmap.value |= bit;
                        }
                        'x' => {}
                        found => {
                            return Err(CpuTemplateError::BitmapCharacter { bitmap: text.to_owned(), found });
                        }
                    }
                    bit <<= 1;
                }
                Ok(bitmap)
            }
        }

        impl fmt::Display for Bitmap<$number> {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("0b")?;
                (0..<$number>::BITS).rev().try_for_each(|shift| {
                    formatter.write_str(match ((self.mask >> shift) & 1, (self.value >> shift) & 1) {
                        (0, _) => "x",
                        (_, 0) => "0",
                        _ => "1",
                    })
                })
            }
        }

        impl Serialize for Bitmap<$number> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for Bitmap<$number> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

bitmap_of!(u32);
bitmap_of!(u64);

impl FromStr for KvmCapability {
    type Err = CpuTemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, make): (&str, fn(u32) -> Self) = match text.strip_prefix('!') {
            Some(number) => (number, Self::Waive),
            None => (text, Self::Require),
        };
        number.parse().map(make).map_err(|_| CpuTemplateError::Capability(text.to_owned()))
    }
}

impl Serialize for KvmCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Require(number) => serializer.collect_str(number),
            Self::Waive(number) => serializer.collect_str(&format_args!("!{number}")),
        }
    }
}

impl<'de> Deserialize<'de> for KvmCapability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn write_hex<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

fn read_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = match (text.strip_prefix("0x"), text.strip_prefix("0b")) {
        (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
        (_, Some(digits)) => u32::from_str_radix(digits, 2).ok(),
        _ => None,
    };
    parsed.ok_or_else(|| D::Error::custom(CpuTemplateError::Number(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_a_whole_template() {
        let json = r#"{
            "kvm_capabilities": ["!56", "121"],
            "cpuid_modifiers": [{
                "leaf": "0x80000001", "subleaf": "0b0111", "flags": 1,
                "modifiers": [{"register": "ecx", "bitmap": "0b1x_0"}]
            }],
            "msr_modifiers": [{"addr": "0x10a", "bitmap": "0b01"}]
        }"#;
        let template: CpuTemplate = serde_json::from_str(json).unwrap();
        assert_eq!(template.kvm_capabilities, [KvmCapability::Waive(56), KvmCapability::Require(121)]);
        let leaf = &template.cpuid_modifiers[0];
        assert_eq!((leaf.leaf, leaf.subleaf, leaf.flags), (0x8000_0001, 7, 1));
        assert_eq!(leaf.modifiers[0].bitmap, Bitmap { mask: 0b101, value: 0b100 });
        assert_eq!(template.msr_modifiers[0].bitmap, Bitmap { mask: 3, value: 1 });
        let written = serde_json::to_string(&template).unwrap();
        assert_eq!(serde_json::from_str::<CpuTemplate>(&written).unwrap(), template);
    }

    #[test]
    fn lays_a_bitmap_over_the_host() {
        let bitmap: Bitmap<u32> = "0b1xx0".parse().unwrap();
        assert_eq!(bitmap.apply(0b0_0111), 0b0_1110);
        assert_eq!(bitmap.apply(u32::MAX), 0xffff_fffe);
    }

    #[test]
    fn refuses_what_it_can_not_read() {
        let refused = |text: &str| text.parse::<Bitmap<u32>>().unwrap_err();
        assert_eq!(refused("101"), CpuTemplateError::BitmapPrefix("101".into()));
        assert!(matches!(refused("0b12"), CpuTemplateError::BitmapCharacter { found: '2', .. }));
        assert!(matches!(refused(&format!("0b{}", "x".repeat(33))), CpuTemplateError::BitmapWidth { width: 32, .. }));
        assert!(format!("0b{}", "1".repeat(64)).parse::<Bitmap<u64>>().is_ok());
        assert!("!x".parse::<KvmCapability>().is_err());
        for json in [
            r#"{"cpuid_modifiers": [{"leaf": "1", "subleaf": "0x0", "flags": 0, "modifiers": []}]}"#,
            r#"{"cpuid_modifiers": [{"leaf": "0x100000000", "subleaf": "0x0", "flags": 0, "modifiers": []}]}"#,
            r#"{"reg_modifiers": []}"#,
        ] {
            assert!(serde_json::from_str::<CpuTemplate>(json).is_err(), "{json}");
        }
    }
}
