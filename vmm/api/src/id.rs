//! Names: of the VM on the command line, and of resources in paths and bodies of requests.

use std::fmt;

/// Most bytes in the name of a VM.
pub const VM_ID_MAX_BYTES: usize = 64;

/// Name of a VM: 1 to [`VM_ID_MAX_BYTES`] letters, digits and `-`, all ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmId(String);

impl VmId {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, VmIdError> {
        if name.is_empty() || name.len() > VM_ID_MAX_BYTES {
            return Err(VmIdError::Length { bytes: name.len() });
        }
        match name.chars().enumerate().find(|(_, c)| !c.is_ascii_alphanumeric() && *c != '-') {
            Some((at, character)) => Err(VmIdError::Character { character, at }),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for VmId {
    /// The name of a VM that was given none, the same as Firecracker's.
    fn default() -> Self {
        Self("anonymous-instance".to_owned())
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Why a VM can't have this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmIdError {
    /// Too short or too long.
    #[error("it has {bytes} bytes; use 1 to {VM_ID_MAX_BYTES}")]
    Length {
        /// Length of the name.
        bytes: usize,
    },
    /// A character that it may not have.
    #[error("it has {character:?} at position {at}; use ASCII letters, digits and '-'")]
    Character {
        /// The first such character.
        character: char,
        /// Its position, in characters from 0.
        at: usize,
    },
}

/// Name of a drive or another resource: letters and digits of any script, and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceId(String);

impl ResourceId {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, ResourceIdError> {
        Self::check(name)?;
        Ok(Self(name.to_owned()))
    }

    /// Checks a name without keeping it.
    pub fn check(name: &str) -> Result<(), ResourceIdError> {
        if name.is_empty() {
            return Err(ResourceIdError::Empty);
        }
        match name.chars().find(|c| !c.is_alphanumeric() && *c != '_') {
            Some(character) => Err(ResourceIdError::Character { name: name.to_owned(), character }),
            None => Ok(()),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a resource can't have this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceIdError {
    /// No name at all.
    #[error("the ID cannot be empty; append one to the path, as in /drives/rootfs")]
    Empty,
    /// A character that it may not have.
    #[error("the ID {name:?} has {character:?}; use letters, digits and underscores")]
    Character {
        /// The name.
        name: String,
        /// The first such character.
        character: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_ids() {
        assert!(VmId::new("a").is_ok());
        assert!(VmId::new(&"a-9".repeat(21)).is_ok());
        assert_eq!(VmId::new(""), Err(VmIdError::Length { bytes: 0 }));
        assert_eq!(VmId::new(&"a".repeat(65)), Err(VmIdError::Length { bytes: 65 }));
        assert_eq!(VmId::new("ab_c"), Err(VmIdError::Character { character: '_', at: 2 }));
        assert_eq!(VmId::new("é"), Err(VmIdError::Character { character: 'é', at: 0 }));
    }

    #[test]
    fn resource_ids() {
        assert_eq!(ResourceId::new("root_1").unwrap().as_str(), "root_1");
        assert!(ResourceId::check("é").is_ok());
        assert_eq!(ResourceId::check(""), Err(ResourceIdError::Empty));
        assert!(matches!(ResourceId::check("a-b"), Err(ResourceIdError::Character { character: '-', .. })));
        assert!(matches!(ResourceId::check("../x"), Err(ResourceIdError::Character { character: '.', .. })));
    }
}
