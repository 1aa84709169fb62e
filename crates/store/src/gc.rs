//! Garbage collection: versions whose time is over let go of their chunks, packs that nothing needs are claimed, and
//! what was claimed long enough ago goes.
//!
//! Rows first: a claimed pack has no chunks any more and nothing new relies on it; its object is removed some time
//! later, its row after that. On PostgreSQL whoever comes to rely on a pack shares the lock of its row
//! ([`Tx::lock_packs`]). Collection takes the whole lock and looks in a later statement, which sees everything that
//! was committed before the lock. It never waits for the lock: what somebody holds at this moment is in use, and
//! waiting with an app locked would be waiting in a circle with those who insert chunks. On SQLite the single writer
//! gives the same.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::{AppId, PackId, VersionId};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A version whose time is over.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PurgeableVersion {
    /// Row id.
    pub id: VersionId,
    /// Whose.
    pub app_id: AppId,
    /// Its name.
    pub name: String,
    /// When it was deleted, or the app or project that it is in.
    pub deleted_at: DateTime<Utc>,
}

/// What became of a version that was to be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// It needs nothing any more.
    Done,
    /// It was restored, or is held: it stays as it is.
    Kept,
    /// A push relies on one of its packs at this moment; nothing was changed.
    Busy,
}

/// What became of a pack that was to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing can rely on it any more.
    Claimed,
    /// An open upload relies on it, or a push is about to.
    Pinned,
    /// A version needs it.
    Needed,
    /// It is claimed already, or there is none.
    Gone,
}

/// A pack that was claimed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ClaimedPack {
    /// Row id.
    pub id: PackId,
    /// Its name in storage.
    pub key: Uuid,
    /// Bytes of the object.
    #[sqlx(try_from = "i64")]
    pub size: u64,
    /// Whether a version needs it all the same: a fault, and a reason to leave it alone.
    pub needed: bool,
}

statements! {
    PURGEABLE = "SELECT id, app_id, name, deleted_at FROM version
        WHERE state = 'deleted' AND NOT archived AND deleted_at <= $1 AND NOT legal_hold
            AND (deleted_at, id) > ($2, $3)
        ORDER BY deleted_at, id LIMIT $4";
    // Whatever their state, and whatever points to them: nobody can ask for them any more.
    OF_DELETED_APPS = "SELECT v.id, v.app_id, v.name, COALESCE(a.deleted_at, p.deleted_at) AS deleted_at
        FROM app a JOIN project p ON p.id = a.project_id JOIN version v ON v.app_id = a.id
        WHERE (a.deleted_at <= $1 OR p.deleted_at <= $1) AND v.state <> 'purged' AND NOT v.legal_hold
            AND (v.app_id, v.id) > ($2, $3)
        ORDER BY v.app_id, v.id LIMIT $4";
    COUNT_PACKS = "SELECT COUNT(*) FROM version_pack WHERE version_id = $1";
    LOCK_PACKS_POSTGRES = "SELECT id FROM pack WHERE id IN (SELECT pack_id FROM version_pack WHERE version_id = $1)
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED";
    PURGE = "UPDATE version SET state = 'purged', archived = FALSE, revision = revision + 1
        WHERE id = $1 AND state <> 'purged' AND NOT legal_hold
            AND ((state = 'deleted' AND NOT archived AND deleted_at <= $2)
                OR EXISTS (SELECT 1 FROM app a JOIN project p ON p.id = a.project_id
                    WHERE a.id = version.app_id AND (a.deleted_at <= $2 OR p.deleted_at <= $2)))";
    FORGET_LIVE_BYTES = "UPDATE pack SET live_bytes = NULL
        WHERE id IN (SELECT pack_id FROM version_pack WHERE version_id = $1)";
    RELEASE = "DELETE FROM version_pack WHERE version_id = $1";
    UNNEEDED = "SELECT p.id FROM pack p WHERE p.state = 'live' AND p.created_at <= $1 AND p.id > $2
            AND NOT EXISTS (SELECT 1 FROM version_pack n WHERE n.pack_id = p.id)
        ORDER BY p.id LIMIT $3";
    LIVE = "SELECT id FROM pack WHERE id = $1 AND state = 'live'";
    LOCK_POSTGRES = "SELECT id FROM pack WHERE id = $1 AND state = 'live' FOR UPDATE SKIP LOCKED";
    IN_USE = "SELECT EXISTS (SELECT 1 FROM version_pack WHERE pack_id = $1),
        EXISTS (SELECT 1 FROM upload_pack WHERE pack_id = $1)";
    CLAIM = "UPDATE pack SET state = 'claimed', claimed_at = $2, live_bytes = NULL WHERE id = $1";
    FORGET_CHUNKS = "DELETE FROM chunk WHERE pack_id = $1";
    CLAIMED = "SELECT p.id, p.key, p.size, EXISTS (SELECT 1 FROM version_pack n WHERE n.pack_id = p.id) AS needed
        FROM pack p WHERE p.state = 'claimed' AND p.claimed_at <= $1 AND p.id > $2 ORDER BY p.id LIMIT $3";
    // A pin that came after the claim holds nothing.
    UNPIN = "DELETE FROM upload_pack WHERE pack_id IN (SELECT id FROM pack WHERE id = $1 AND state = 'claimed')";
    REMOVE = "DELETE FROM pack WHERE id = $1 AND state = 'claimed'";
}

impl Tx {
    /// Versions that were deleted until `cutoff` and are not held, in the order in which they were deleted, behind
    /// a place in it. Not those that are archived.
    pub async fn purgeable_versions(
        &mut self,
        cutoff: DateTime<Utc>,
        after: (DateTime<Utc>, VersionId),
        limit: u32,
    ) -> Result<Vec<PurgeableVersion>, StoreError> {
        fetch_all!(self, PurgeableVersion, PURGEABLE, cutoff, after.0, after.1, i64::from(limit))
    }

    /// Versions of apps that were deleted until `cutoff`, or whose project was, by app and id, behind a place in that
    /// order. In whatever state, but not those that are held.
    pub async fn versions_of_deleted_apps(
        &mut self,
        cutoff: DateTime<Utc>,
        after: (AppId, VersionId),
        limit: u32,
    ) -> Result<Vec<PurgeableVersion>, StoreError> {
        fetch_all!(self, PurgeableVersion, OF_DELETED_APPS, cutoff, after.0, after.1, i64::from(limit))
    }

    /// Lets a version that was deleted until `cutoff`, by itself or with its app or project, go of its chunks. The
    /// transaction has locked the app; the version's marker is the caller's to queue.
    pub async fn purge_version(&mut self, id: VersionId, cutoff: DateTime<Utc>) -> Result<Purge, StoreError> {
        // The packs' rows are changed below, and that is nothing to wait for.
        if matches!(self, Self::Postgres(_)) {
            let (wanted,) = fetch_one!(self, (i64,), COUNT_PACKS, id)?;
            let locked = fetch_all!(self, (PackId,), LOCK_PACKS_POSTGRES, id)?;
            if i64::try_from(locked.len()) != Ok(wanted) {
                return Ok(Purge::Busy);
            }
        }
        if execute!(self, PURGE, id, cutoff)? == 0 {
            return Ok(Purge::Kept);
        }
        execute!(self, FORGET_LIVE_BYTES, id)?;
        execute!(self, RELEASE, id)?;
        Ok(Purge::Done)
    }

    /// Live packs that no version needs and that were recorded until `created`, behind an id, by id. Younger ones
    /// belong to pushes in progress.
    pub async fn unneeded_packs(
        &mut self,
        created: DateTime<Utc>,
        after: PackId,
        limit: u32,
    ) -> Result<Vec<PackId>, StoreError> {
        let rows = fetch_all!(self, (PackId,), UNNEEDED, created, after, i64::from(limit))?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Locks a live pack against everybody until the transaction ends; false if it is not live, or if somebody
    /// relies on it at this moment.
    pub(crate) async fn seize_pack(&mut self, id: PackId) -> Result<bool, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => LIVE,
            Self::Postgres(_) => LOCK_POSTGRES,
        };
        Ok(fetch_optional!(self, (PackId,), sql, id)?.is_some())
    }

    /// Claims a pack that neither a version nor an upload needs. Its chunks are not there any more, for no app: who
    /// sends one of them again finds its place free.
    pub async fn claim_pack(&mut self, id: PackId, now: DateTime<Utc>) -> Result<Claim, StoreError> {
        if !self.seize_pack(id).await? {
            let live = fetch_optional!(self, (PackId,), LIVE, id)?.is_some();
            return Ok(if live { Claim::Pinned } else { Claim::Gone });
        }
        let (needed, pinned) = fetch_one!(self, (bool, bool), IN_USE, id)?;
        if needed {
            return Ok(Claim::Needed);
        }
        if pinned {
            return Ok(Claim::Pinned);
        }
        execute!(self, CLAIM, id, now)?;
        execute!(self, FORGET_CHUNKS, id)?;
        Ok(Claim::Claimed)
    }

    /// Packs that were claimed until `claimed`, behind an id, by id. What is claimed stays so.
    pub async fn claimed_packs(
        &mut self,
        claimed: DateTime<Utc>,
        after: PackId,
        limit: u32,
    ) -> Result<Vec<ClaimedPack>, StoreError> {
        fetch_all!(self, ClaimedPack, CLAIMED, claimed, after, i64::from(limit))
    }

    /// Removes the row of a claimed pack whose object is gone; false if there is none.
    pub async fn delete_claimed_pack(&mut self, id: PackId) -> Result<bool, StoreError> {
        execute!(self, UNPIN, id)?;
        execute!(self, REMOVE, id).map(|rows| rows == 1)
    }
}
