//! What a caller may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// See that things exist: lists, metadata, history.
    View,
    /// Read content.
    Pull,
    /// Create versions.
    Push,
    /// Move channels.
    Promote,
    /// Everything, including deletion and access.
    Admin,
}

impl Permission {
    const ALL: [Self; 5] = [Self::View, Self::Pull, Self::Push, Self::Promote, Self::Admin];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The permission's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Promote => "promote",
            Self::Admin => "admin",
        }
    }
}

/// A word that names no permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a permission: view, pull, push, promote or admin")]
pub struct UnknownPermission(String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    /// Reads a name or one of the accepted aliases of other systems.
    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        Ok(match text {
            "view" | "storage:read" | "admin:read" => Self::View,
            "pull" | "read" | "files:read" => Self::Pull,
            "push" | "write" | "files:write" => Self::Push,
            "promote" => Self::Promote,
            "admin" | "storage:write" | "admin:write" => Self::Admin,
            _ => return Err(UnknownPermission(text.chars().take(40).collect())),
        })
    }
}

/// A set of permissions. Admin contains all; pull, push and promote each contain view, since nobody can act on
/// what they may not see.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Permissions(u8);

impl Permissions {
    /// Every permission.
    pub const ALL: Self = Self(0b1_1111);

    /// Whether the permission is in the set.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether every permission of `other` is in the set.
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As a number for the database.
    pub const fn bits(self) -> i16 {
        self.0 as i16
    }

    /// From the database. Unknown bits are dropped: a permission that this release does not know grants nothing.
    pub fn from_bits(bits: i16) -> Self {
        Permission::ALL.into_iter().filter(|p| bits & i16::from(p.bit()) != 0).collect()
    }

    /// The permissions in the set.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |p| self.contains(*p))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let bits = permissions.into_iter().fold(0, |bits, permission| {
            bits | match permission {
                Permission::Admin => Self::ALL.0,
                other => other.bit() | Permission::View.bit(),
            }
        });
        Self(bits)
    }
}

impl TryFrom<Vec<String>> for Permissions {
    type Error = UnknownPermission;
    fn try_from(names: Vec<String>) -> Result<Self, UnknownPermission> {
        names.iter().map(|name| name.parse::<Permission>()).collect()
    }
}

impl From<Permissions> for Vec<String> {
    fn from(permissions: Permissions) -> Vec<String> {
        permissions.iter().map(|p| p.as_str().to_owned()).collect()
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Vec::from(*self).join(", "))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acting_needs_seeing_and_admin_is_all() {
        for permission in [Permission::Pull, Permission::Push, Permission::Promote] {
            let set: Permissions = [permission].into_iter().collect();
            assert!(set.contains(Permission::View) && set.contains(permission));
            assert!(!set.contains(Permission::Admin));
            assert_eq!(set.iter().count(), 2);
        }
        let admin: Permissions = [Permission::Admin].into_iter().collect();
        assert_eq!(admin, Permissions::ALL);
        assert!(Permissions::default().is_empty());
    }

    #[test]
    fn names_aliases_and_numbers() {
        let set: Permissions = serde_json::from_str(r#"["files:read","promote"]"#).unwrap();
        assert_eq!(set.to_string(), "view, pull, promote");
        assert_eq!(Permissions::from_bits(set.bits()), set);
        assert_eq!(Permissions::from_bits(0x60), Permissions::default());
        assert!(serde_json::from_str::<Permissions>(r#"["root"]"#).is_err());
    }
}
