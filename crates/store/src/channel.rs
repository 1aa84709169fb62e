//! Channels and their history.

use chrono::{DateTime, Utc};
use kkartifact_model::api::channel::{Channel, ChannelMove, MoveAction};
use kkartifact_model::{ChannelName, VersionName};

use crate::audit::Actor;
use crate::error::StoreError;
use crate::id::{AppId, ChannelId, VersionId};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A channel's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ChannelRow {
    /// Row id.
    pub id: ChannelId,
    /// Its name.
    #[sqlx(try_from = "String")]
    pub name: ChannelName,
    /// What it points to.
    pub version_id: VersionId,
    /// What it pointed to before.
    pub previous_version_id: Option<VersionId>,
    /// Counts its moves.
    pub revision: i64,
    #[sqlx(try_from = "String")]
    version: VersionName,
    previous: Option<String>,
    updated_at: DateTime<Utc>,
}

impl From<ChannelRow> for Channel {
    fn from(row: ChannelRow) -> Self {
        Self {
            channel: row.name,
            version: row.version,
            previous: row.previous.and_then(|name| name.parse().ok()),
            revision: row.revision,
            updated_at: row.updated_at,
        }
    }
}

#[derive(sqlx::FromRow)]
struct MoveRow {
    revision: i64,
    #[sqlx(try_from = "String")]
    version: VersionName,
    previous: Option<String>,
    #[sqlx(try_from = "String")]
    action: MoveAction,
    actor_name: String,
    at: DateTime<Utc>,
}

impl From<MoveRow> for ChannelMove {
    fn from(row: MoveRow) -> Self {
        Self {
            revision: row.revision,
            version: row.version,
            previous: row.previous.and_then(|name| name.parse().ok()),
            action: row.action,
            actor: row.actor_name,
            at: row.at,
        }
    }
}

macro_rules! columns {
    () => {
        "SELECT c.id, c.name, c.version_id, c.previous_version_id, c.revision, v.name AS version,
            q.name AS previous, c.updated_at
        FROM channel c JOIN version v ON v.id = c.version_id LEFT JOIN version q ON q.id = c.previous_version_id "
    };
}

statements! {
    FIND = concat!(columns!(), "WHERE c.app_id = $1 AND c.name = $2");
    LIST = concat!(columns!(), "WHERE c.app_id = $1 ORDER BY c.name LIMIT $2");
    UPSERT = "INSERT INTO channel (app_id, name, version_id, previous_version_id, revision, updated_at)
        VALUES ($1, $2, $3, NULL, 1, $4)
        ON CONFLICT (app_id, name) DO UPDATE SET previous_version_id = channel.version_id,
            version_id = EXCLUDED.version_id, revision = channel.revision + 1, updated_at = EXCLUDED.updated_at
        RETURNING id, previous_version_id, revision";
    INSERT_MOVE = "INSERT INTO channel_move
            (channel_id, revision, version_id, previous_version_id, action, actor_id, actor_name, at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    MOVES = "SELECT m.revision, v.name AS version, q.name AS previous, m.action, m.actor_name, m.at
        FROM channel_move m JOIN version v ON v.id = m.version_id LEFT JOIN version q ON q.id = m.previous_version_id
        WHERE m.channel_id = $1 AND m.revision < $2 ORDER BY m.revision DESC LIMIT $3";
    // Where a rollback goes without being told: the version of the newest promotion before the one that is in
    // place, so that rolling back twice goes back twice.
    ROLLBACK_TARGET = "SELECT m.version_id FROM channel_move m JOIN version v ON v.id = m.version_id
        WHERE m.channel_id = $1 AND v.state = 'published' AND m.version_id <> $2 AND m.action = 'promote'
            AND m.revision < (SELECT MAX(n.revision) FROM channel_move n
                WHERE n.channel_id = $1 AND n.version_id = $2 AND n.action = 'promote')
        ORDER BY m.revision DESC LIMIT 1";
}

impl Tx {
    /// The channel of this name.
    pub async fn find_channel(
        &mut self,
        app: AppId,
        name: &ChannelName,
    ) -> Result<Option<ChannelRow>, StoreError> {
        fetch_optional!(self, ChannelRow, FIND, app, name.as_str())
    }

    /// The channels of an app by name, at most `limit`.
    pub async fn list_channels(&mut self, app: AppId, limit: u32) -> Result<Vec<ChannelRow>, StoreError> {
        fetch_all!(self, ChannelRow, LIST, app, i64::from(limit))
    }

    /// Points a channel to a version and writes its history; creates the channel if need be.
    pub async fn move_channel(
        &mut self,
        app: AppId,
        name: &ChannelName,
        to: VersionId,
        action: MoveAction,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Result<ChannelRow, StoreError> {
        let (id, previous, revision) =
            fetch_one!(self, (ChannelId, Option<VersionId>, i64), UPSERT, app, name.as_str(), to, now)?;
        let actor_name = actor.name.as_str();
        execute!(self, INSERT_MOVE, id, revision, to, previous, action.as_str(), actor.id, actor_name, now)?;
        fetch_one!(self, ChannelRow, FIND, app, name.as_str())
    }

    /// The moves of a channel before a revision, newest first.
    pub async fn channel_moves(
        &mut self,
        channel: ChannelId,
        before: i64,
        limit: u32,
    ) -> Result<Vec<ChannelMove>, StoreError> {
        let rows = fetch_all!(self, MoveRow, MOVES, channel, before, i64::from(limit))?;
        Ok(rows.into_iter().map(ChannelMove::from).collect())
    }

    /// The version that a rollback of a channel goes to, if there is one.
    pub async fn rollback_target(&mut self, channel: &ChannelRow) -> Result<Option<VersionId>, StoreError> {
        let row = fetch_optional!(self, (VersionId,), ROLLBACK_TARGET, channel.id, channel.version_id)?;
        Ok(row.map(|(id,)| id))
    }
}
