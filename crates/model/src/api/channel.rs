//! Channels: named pointers to versions, with history.

use crate::text::text_enum;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, ChannelName, ProjectName, VersionName};

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub channel: ChannelName,
    /// What it points to.
    pub version: VersionName,
    /// What it pointed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<VersionName>,
    /// Counts the moves of this channel.
    pub revision: i64,
    /// When it was last moved.
    pub updated_at: DateTime<Utc>,
}

/// One move of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelMove {
    /// The channel's revision after the move.
    pub revision: i64,
    /// Where it points since.
    pub version: VersionName,
    /// Where it pointed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<VersionName>,
    /// Forward or back.
    pub action: MoveAction,
    /// Who moved it.
    pub actor: String,
    /// When.
    pub at: DateTime<Utc>,
}

text_enum! {
    /// Whether a channel was moved forward or back.
    MoveAction {
        /// Pointed to a version.
        Promote = "promote",
        /// Moved back to an earlier one.
        Rollback = "rollback",
    }
}

/// Points a channel to a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// To which version.
    pub version: VersionName,
    /// Which channel; `stable` unless told otherwise.
    #[serde(default = "ChannelName::stable")]
    pub channel: ChannelName,
}

/// Moves a channel back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// Which channel; `stable` unless told otherwise.
    #[serde(default = "ChannelName::stable")]
    pub channel: ChannelName,
    /// To which version; the one before the current one unless told otherwise.
    #[serde(default)]
    pub to: Option<VersionName>,
}
