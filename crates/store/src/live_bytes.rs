//! How much of packs versions need, and which packs are worth compacting.
//!
//! `live_bytes` is a pack's size without the stored bytes that no version needs, as it was counted last. It only tells
//! where to look: what is needed is read from `version_pack` again before anything is moved.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::chunk_set::ChunkSet;
use crate::error::StoreError;
use crate::id::{AppId, PackId, VersionId};
use crate::pack::PackRow;
use crate::tx::{Tx, execute, fetch_all, fetch_one, statements};

/// A pack that may be compacted.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct CompactablePack {
    /// Row id.
    pub id: PackId,
    /// Its name in storage.
    pub key: Uuid,
    /// The app that it was written for.
    pub app_id: AppId,
    /// Bytes of the object.
    #[sqlx(try_from = "i64")]
    pub size: u64,
    /// Bytes that are needed, as they were counted last; all if they were not.
    #[sqlx(try_from = "i64")]
    pub live_bytes: u64,
    /// How many chunks it holds.
    #[sqlx(try_from = "i32")]
    pub chunk_count: u32,
    /// Thousandths of the object that nothing needs.
    pub dead: i64,
    /// How many versions need something of it: so many rows are rewritten when it is compacted.
    #[sqlx(try_from = "i64")]
    pub versions: u64,
}

/// A place among the packs with dead bytes, of which those with the largest part of them come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadPlace {
    /// Thousandths of the object that nothing needs.
    pub dead: i64,
    /// The pack.
    pub id: PackId,
}

impl DeadPlace {
    /// Before the first pack.
    pub const START: Self = Self { dead: i64::MAX, id: PackId(0) };
}

impl CompactablePack {
    /// Its place among those with dead bytes.
    pub fn place(&self) -> DeadPlace {
        DeadPlace { dead: self.dead, id: self.id }
    }
}

/// How many bytes live packs have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredBytes {
    /// All of them.
    pub total: u64,
    /// Those that are known to be needed by nothing.
    pub dead: u64,
}

/// How many rows of `version_pack` are read together: each has up to a few KiB.
const PAGE: u32 = 500;

macro_rules! dead {
    () => {
        "((p.size - COALESCE(p.live_bytes, p.size)) * 1000 / NULLIF(p.size, 0))"
    };
}

// Packs of versions that no upload relies on and that were recorded until $1: compacting others would be in vain.
macro_rules! at_rest {
    () => {
        "FROM pack p WHERE p.state = 'live' AND p.created_at <= $1 AND p.size > 0
            AND EXISTS (SELECT 1 FROM version_pack n WHERE n.pack_id = p.id)
            AND NOT EXISTS (SELECT 1 FROM upload_pack u WHERE u.pack_id = p.id) "
    };
}

macro_rules! columns {
    () => {
        concat!(
            "SELECT p.id, p.key, p.app_id, p.size, COALESCE(p.live_bytes, p.size) AS live_bytes, p.chunk_count, ",
            dead!(),
            " AS dead "
        )
    };
}

// Versions are counted for those packs only that are given out, and not for all that were looked at.
macro_rules! with_versions {
    ($order:literal, $($packs:tt)*) => {
        concat!(
            "SELECT w.*, (SELECT COUNT(*) FROM version_pack n WHERE n.pack_id = w.id) AS versions FROM (",
            $($packs)*,
            ") w ORDER BY ",
            $order
        )
    };
}

statements! {
    UNCOUNTED = "SELECT p.id, p.key, p.size FROM pack p WHERE p.state = 'live' AND p.live_bytes IS NULL AND p.id > $1
            AND EXISTS (SELECT 1 FROM version_pack n WHERE n.pack_id = p.id)
        ORDER BY p.id LIMIT $2";
    NEEDED = "SELECT version_id, chunks FROM version_pack WHERE pack_id = $1 AND version_id > $2
        ORDER BY version_id LIMIT $3";
    SET = "UPDATE pack SET live_bytes = $2 WHERE id = $1";
    STORED = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT),
            CAST(COALESCE(SUM(size - COALESCE(live_bytes, size)), 0) AS BIGINT)
        FROM pack WHERE state = 'live'";
    WORST = with_versions!("w.dead DESC, w.id", columns!(), at_rest!(), "AND ", dead!(), " >= $2
        AND (", dead!(), " < $3 OR (", dead!(), " = $3 AND p.id > $4)) ORDER BY ", dead!(), " DESC, p.id LIMIT $5");
    SMALL_APPS = concat!("SELECT p.app_id ", at_rest!(), "AND p.size < $2 AND p.app_id > $3
        GROUP BY p.app_id HAVING COUNT(*) >= $4 ORDER BY p.app_id LIMIT $5");
    SMALL = with_versions!("w.id", columns!(), at_rest!(), "AND p.size < $2 AND p.app_id = $3 AND p.id > $4
        ORDER BY p.id LIMIT $5");
}

impl Tx {
    /// Live packs that versions need and whose live bytes are not known, behind an id, by id.
    pub async fn uncounted_packs(&mut self, after: PackId, limit: u32) -> Result<Vec<PackRow>, StoreError> {
        fetch_all!(self, PackRow, UNCOUNTED, after, i64::from(limit))
    }

    /// The chunks of a pack that versions need.
    pub async fn needed_chunks(&mut self, pack: PackId) -> Result<ChunkSet, StoreError> {
        let (mut needed, mut after) = (ChunkSet::default(), VersionId(0));
        loop {
            let page = fetch_all!(self, (VersionId, Vec<u8>), NEEDED, pack, after, i64::from(PAGE))?;
            let Some((last, _)) = page.last() else { return Ok(needed) };
            after = *last;
            for (_, chunks) in page {
                needed.extend(&ChunkSet::from_bytes(chunks));
            }
        }
    }

    /// Counts and records the live bytes of a pack of `size` bytes whose chunks have these stored lengths, in the order
    /// of its footer. `None` if it is not live any more, or in use at this moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if a version needs a chunk that the pack has not.
    pub async fn count_live_bytes(
        &mut self,
        pack: PackId,
        size: u64,
        stored_lens: &[u32],
    ) -> Result<Option<u64>, StoreError> {
        // Nobody may purge a version between the count and its record.
        if !self.seize_pack(pack).await? {
            return Ok(None);
        }
        let needed = self.needed_chunks(pack).await?;
        if let Some(beyond) = needed.ordinals().find(|ordinal| *ordinal as usize >= stored_lens.len()) {
            return Err(StoreError::Corrupt(format!("a version needs chunk {beyond} of pack {}", pack.0)));
        }
        let unneeded = (0..).zip(stored_lens).filter(|(ordinal, _)| !needed.contains(*ordinal));
        let dead: u64 = unneeded.map(|(_, len)| u64::from(*len)).sum();
        let live = size.saturating_sub(dead);
        execute!(self, SET, pack, i64::try_from(live).unwrap_or(i64::MAX))?;
        Ok(Some(live))
    }

    /// How many bytes live packs have in all, and how many of them nothing needs.
    pub async fn stored_bytes(&mut self) -> Result<StoredBytes, StoreError> {
        let (total, dead) = fetch_one!(self, (i64, i64), STORED)?;
        let bytes = |value| u64::try_from(value).unwrap_or(0);
        Ok(StoredBytes { total: bytes(total), dead: bytes(dead) })
    }

    /// Packs at rest, recorded until `created`, of which at least `least` thousandths are dead, behind a place, the
    /// worst first.
    pub async fn worst_packs(
        &mut self,
        created: DateTime<Utc>,
        least: i64,
        after: DeadPlace,
        limit: u32,
    ) -> Result<Vec<CompactablePack>, StoreError> {
        let (dead, id, limit) = (after.dead, after.id, i64::from(limit));
        fetch_all!(self, CompactablePack, WORST, created, least, dead, id, limit)
    }

    /// Apps that have at least `least` packs at rest, recorded until `created`, of fewer than `size` bytes, behind an
    /// id, by id.
    pub async fn apps_with_small_packs(
        &mut self,
        created: DateTime<Utc>,
        size: u64,
        least: u32,
        after: AppId,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        let (size, least) = (i64::try_from(size).unwrap_or(i64::MAX), i64::from(least));
        let rows = fetch_all!(self, (AppId,), SMALL_APPS, created, size, after, least, i64::from(limit))?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// The packs at rest of an app, recorded until `created`, of fewer than `size` bytes, behind an id, by id.
    pub async fn small_packs(
        &mut self,
        created: DateTime<Utc>,
        size: u64,
        app: AppId,
        after: PackId,
        limit: u32,
    ) -> Result<Vec<CompactablePack>, StoreError> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        fetch_all!(self, CompactablePack, SMALL, created, size, app, after, i64::from(limit))
    }
}
