//! Names of projects, apps, versions and channels.
//!
//! A name is a type: it can only be made by [`std::str::FromStr`], which checks it, so no other code has to ask
//! whether a name contains a slash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {value:?} {reason}")]
pub struct InvalidName {
    kind: &'static str,
    /// At most 80 characters of what was given.
    value: String,
    reason: &'static str,
}

/// ASCII letters, digits and `extra`, starting with a letter or digit, at most `max` bytes, no `..`.
fn check(kind: &'static str, value: &str, max: usize, extra: &[u8]) -> Result<(), InvalidName> {
    let reason = if value.is_empty() {
        "is empty"
    } else if value.len() > max {
        "is too long"
    } else if !value.as_bytes()[0].is_ascii_alphanumeric() {
        "must start with a letter or a digit"
    } else if !value.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b)) {
        "has a character other than letters, digits, '.', '-', '_' (and '+' in versions)"
    } else if value.contains("..") {
        "contains '..'"
    } else {
        return Ok(());
    };
    Err(InvalidName { kind, value: value.chars().take(80).collect(), reason })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The longest permitted name, in bytes.
            pub const MAX_LEN: usize = $max;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                check($kind, value, Self::MAX_LEN, $extra)?;
                Ok(Self(value.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A project: the unit that owns content and permissions.
    ProjectName, "project", 64, b".-_"
);
name_type!(
    /// An app of a project: one line of versions.
    AppName, "app", 64, b".-_"
);
name_type!(
    /// A version of an app: a git commit, a semantic version or a content hash.
    VersionName, "version", 128, b".-_+"
);
name_type!(
    /// A channel of an app, such as `stable`: a named pointer to a version.
    ChannelName, "channel", 64, b".-_"
);

impl ChannelName {
    /// The channel that `promote` moves unless told otherwise.
    pub fn stable() -> Self {
        Self("stable".to_owned())
    }
}

/// A version as a caller may name it: by its name, as `@channel`, or as `@latest` (the newest one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VersionRef {
    /// This very version.
    Name(VersionName),
    /// What the channel points to now.
    Channel(ChannelName),
    /// The version that was published last.
    Latest,
}

impl FromStr for VersionRef {
    type Err = InvalidName;
    fn from_str(value: &str) -> Result<Self, InvalidName> {
        match value.strip_prefix('@') {
            Some("latest") => Ok(Self::Latest),
            Some(channel) => channel.parse().map(Self::Channel),
            None => value.parse().map(Self::Name),
        }
    }
}

impl TryFrom<String> for VersionRef {
    type Error = InvalidName;
    fn try_from(value: String) -> Result<Self, InvalidName> {
        value.parse()
    }
}

impl From<VersionRef> for String {
    fn from(version: VersionRef) -> String {
        version.to_string()
    }
}

impl From<VersionName> for VersionRef {
    fn from(name: VersionName) -> Self {
        Self::Name(name)
    }
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Channel(channel) => write!(f, "@{channel}"),
            Self::Latest => f.write_str("@latest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_leave_a_directory_or_confuse_a_reader() {
        for bad in
            ["", ".", "..", "a/b", "a\\b", "a\0b", "-rf", ".hidden", "a..b", "a b", "ä", "%2e", "a\n", "@x"]
        {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?}");
            assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
            assert!(bad.parse::<VersionName>().is_err(), "{bad:?}");
            assert!(bad.parse::<ChannelName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(65).parse::<AppName>().is_err());
        assert!("a".repeat(64).parse::<AppName>().is_ok());
    }

    #[test]
    fn a_refused_name_is_quoted_escaped_and_cut() {
        let error = format!("\u{1b}[2J{}", "x".repeat(500)).parse::<AppName>().unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'));
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn version_references() {
        assert_eq!("1.0.0+b1".parse::<VersionRef>().unwrap().to_string(), "1.0.0+b1");
        assert_eq!("@stable".parse::<VersionRef>().unwrap(), VersionRef::Channel(ChannelName::stable()));
        assert_eq!("@latest".parse::<VersionRef>().unwrap(), VersionRef::Latest);
        assert!("@".parse::<VersionRef>().is_err());
        assert!("@@x".parse::<VersionRef>().is_err());
    }
}
