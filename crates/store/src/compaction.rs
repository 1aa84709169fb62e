//! Compaction: what versions need of some packs has been copied into a new one, and the rows follow in one
//! transaction.
//!
//! Locks, in this order: the apps whose versions are concerned, so that neither an upload's base nor a version
//! changes; the old packs, against everybody and without waiting; then rows that only their holder changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::chunk::NewChunk;
use crate::chunk_set::ChunkSet;
use crate::error::StoreError;
use crate::id::{AppId, ElementId, PackId, ProjectId, VersionId};
use crate::role_binding::list;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A pack whose needed chunks have been copied.
#[derive(Debug, Clone)]
pub struct CompactedPack {
    /// The pack.
    pub id: PackId,
    /// By the chunk's ordinal: its ordinal in the new pack, if it was copied.
    pub moved: Vec<Option<u32>>,
}

/// A new pack that is durable in storage, and the packs whose place it takes.
#[derive(Debug)]
pub struct Compaction<'a> {
    /// Its name in storage.
    pub key: Uuid,
    /// Where it is stored.
    pub element: ElementId,
    /// Whose.
    pub project: ProjectId,
    /// Whose.
    pub app: AppId,
    /// Bytes of the object.
    pub size: u64,
    /// What it holds, in the order of its footer. No chunk twice.
    pub chunks: &'a [NewChunk],
    /// Whose place it takes; at most [`MAX_COMPACTED`].
    pub old: &'a [CompactedPack],
}

/// What became of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The new pack is in use, the old ones are claimed.
    Done(PackId),
    /// Something has come to rely on an old pack since it was copied. The transaction must not be committed.
    Changed,
}

/// The most packs that one compaction takes together.
pub const MAX_COMPACTED: usize = 256;

/// How many rows of `version_pack` are read together: more than one version can have here.
const PAGE: usize = MAX_COMPACTED * 2;
/// How many chunks one statement moves on SQLite, for its 32,766 parameters, …
const BATCH: usize = 500;
/// … and on PostgreSQL.
const BATCH_POSTGRES: usize = 5000;

macro_rules! old {
    () => {
        "(SELECT CAST(value AS BIGINT) FROM json_each($1))"
    };
}

statements! {
    APPS = concat!("SELECT DISTINCT v.app_id FROM version_pack n JOIN version v ON v.id = n.version_id
        WHERE n.pack_id IN ", old!());
    LIVE = concat!("SELECT id FROM pack WHERE state = 'live' AND id IN ", old!());
    LOCK_POSTGRES = concat!("SELECT id FROM pack WHERE state = 'live' AND id IN ", old!(),
        " ORDER BY id FOR UPDATE SKIP LOCKED");
    PINNED = concat!("SELECT EXISTS (SELECT 1 FROM upload_pack WHERE pack_id IN ", old!(), ")");
    INSERT = "INSERT INTO pack (key, element_id, project_id, app_id, size, chunk_count, state, created_at, claimed_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (key) DO NOTHING RETURNING id";
    NEEDS = concat!("SELECT version_id, pack_id, chunks FROM version_pack WHERE pack_id IN ", old!(),
        " AND version_id > $2 ORDER BY version_id, pack_id LIMIT $3");
    NEED = "INSERT INTO version_pack (version_id, pack_id, chunks) VALUES ($1, $2, $3)";
    NEED_POSTGRES = "INSERT INTO version_pack (version_id, pack_id, chunks)
        SELECT u.version_id, $1, u.chunks FROM UNNEST($2::BIGINT[], $3::BYTEA[]) AS u (version_id, chunks)";
    RELEASE = concat!("DELETE FROM version_pack WHERE pack_id IN ", old!());
    MOVE_POSTGRES = concat!("UPDATE chunk AS c SET pack_id = $2, ordinal = m.ordinal, pack_offset = m.pack_offset,
            stored_len = m.stored_len, sha256 = COALESCE(c.sha256, m.sha256)
        FROM UNNEST($3::BYTEA[], $4::INTEGER[], $5::BIGINT[], $6::INTEGER[], $7::BYTEA[])
            AS m (digest, ordinal, pack_offset, stored_len, sha256)
        WHERE c.digest = m.digest AND c.pack_id IN ", old!());
    FORGET_CHUNKS = concat!("DELETE FROM chunk WHERE pack_id IN ", old!());
    CLAIM = concat!("UPDATE pack SET state = 'claimed', claimed_at = $2, live_bytes = NULL WHERE id IN ", old!());
}

static MOVE_SQLITE: LazyLock<String> = LazyLock::new(|| {
    let row = |i: usize| {
        let first = i * 5 + 3;
        let list: Vec<_> = (first..first + 5).map(|i| format!("?{i}")).collect();
        format!("({})", list.join(", "))
    };
    let rows: Vec<_> = (0..BATCH).map(row).collect();
    format!(
        "WITH m (digest, ordinal, pack_offset, stored_len, sha256) AS (VALUES {})
        UPDATE chunk SET pack_id = ?2, ordinal = m.ordinal, pack_offset = m.pack_offset, stored_len = m.stored_len,
            sha256 = COALESCE(chunk.sha256, m.sha256)
        FROM m WHERE chunk.digest = m.digest
            AND chunk.pack_id IN (SELECT CAST(value AS BIGINT) FROM json_each(?1))",
        rows.join(", ")
    )
});

impl Compaction<'_> {
    fn old_ids(&self) -> String {
        list(&self.old.iter().map(|pack| pack.id).collect::<Vec<_>>())
    }
}

impl Tx {
    /// Lets a new pack take the place of old ones, which are claimed: chunks of all apps and what versions need are
    /// moved to it. Nothing must have changed since the copy but that less is needed.
    pub async fn swap_packs(&mut self, new: &Compaction<'_>, now: DateTime<Utc>) -> Result<Swap, StoreError> {
        let old = new.old_ids();
        if !self.lock_compacted(new, &old).await? {
            return Ok(Swap::Changed);
        }
        let Some(id) = self.insert_compaction(new, "live", None, now).await? else {
            return Ok(Swap::Changed);
        };
        if !self.move_needs(new, &old, id).await? {
            return Ok(Swap::Changed);
        }
        self.move_chunks(new.chunks, &old, id).await?;
        execute!(self, FORGET_CHUNKS, old.as_str())?;
        execute!(self, CLAIM, old.as_str(), now)?;
        Ok(Swap::Done(id))
    }

    /// Records the object of a compaction that came to nothing as claimed, so that it goes with the others. If
    /// somebody has adopted it, it is theirs.
    pub async fn abandon_compaction(
        &mut self,
        new: &Compaction<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.insert_compaction(new, "claimed", Some(now), now).await.map(drop)
    }

    /// Locks what the compaction concerns; false if something relies on an old pack that must not be moved.
    async fn lock_compacted(&mut self, new: &Compaction<'_>, old: &str) -> Result<bool, StoreError> {
        let mut apps = self.apps_of_packs(old).await?;
        apps.insert(new.app);
        for app in &apps {
            self.lock_app(*app).await?;
        }
        let sql = match self {
            Self::Sqlite(_) => LIVE,
            Self::Postgres(_) => LOCK_POSTGRES,
        };
        if fetch_all!(self, (PackId,), sql, old)?.len() != new.old.len() {
            return Ok(false);
        }
        // Only statements from here on see all that was committed before the locks.
        let (pinned,) = fetch_one!(self, (bool,), PINNED, old)?;
        Ok(!pinned && self.apps_of_packs(old).await?.is_subset(&apps))
    }

    async fn apps_of_packs(&mut self, packs: &str) -> Result<BTreeSet<AppId>, StoreError> {
        let rows = fetch_all!(self, (AppId,), APPS, packs)?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    async fn insert_compaction(
        &mut self,
        new: &Compaction<'_>,
        state: &str,
        claimed_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<Option<PackId>, StoreError> {
        let size = i64::try_from(new.size).unwrap_or(i64::MAX);
        let (count, element, project, app) = (number(new.chunks.len()), new.element, new.project, new.app);
        let row = fetch_optional!(
            self,
            (PackId,),
            INSERT,
            new.key,
            element,
            project,
            app,
            size,
            count,
            state,
            now,
            claimed_at
        )?;
        Ok(row.map(|(id,)| id))
    }

    /// Rewrites what versions need; false if one needs what was not copied.
    async fn move_needs(&mut self, new: &Compaction<'_>, old: &str, id: PackId) -> Result<bool, StoreError> {
        let moved: HashMap<_, _> = new.old.iter().map(|pack| (pack.id, pack.moved.as_slice())).collect();
        let mut after = VersionId(0);
        loop {
            let limit = i64::from(number(PAGE));
            let mut page = fetch_all!(self, (VersionId, PackId, Vec<u8>), NEEDS, old, after, limit)?;
            let Some(&(last, ..)) = page.last() else { break };
            if page.len() == PAGE {
                // More of it may follow; the page has other versions too, since one has fewer rows than that here.
                page.retain(|(version, ..)| *version != last);
            }
            let Some(&(version, ..)) = page.last() else { return Ok(false) };
            after = version;
            let Some(needs) = translate(page, &moved) else { return Ok(false) };
            self.insert_needs(&needs, id).await?;
        }
        execute!(self, RELEASE, old)?;
        Ok(true)
    }

    async fn insert_needs(&mut self, needs: &[(VersionId, ChunkSet)], id: PackId) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(tx) => {
                for (version, chunks) in needs {
                    sqlx::query(NEED)
                        .bind(*version)
                        .bind(id)
                        .bind(chunks.as_bytes().to_vec())
                        .execute(&mut **tx)
                        .await?;
                }
            }
            Self::Postgres(tx) => {
                sqlx::query(NEED_POSTGRES)
                    .bind(id)
                    .bind(needs.iter().map(|(version, _)| version.0).collect::<Vec<_>>())
                    .bind(needs.iter().map(|(_, chunks)| chunks.as_bytes()).collect::<Vec<_>>())
                    .execute(&mut **tx)
                    .await?;
            }
        }
        Ok(())
    }

    /// Moves the rows of copied chunks, whichever app has them and whichever old pack they were in.
    async fn move_chunks(&mut self, chunks: &[NewChunk], old: &str, id: PackId) -> Result<(), StoreError> {
        let chunks: Vec<_> = (0..).zip(chunks).collect();
        match self {
            Self::Sqlite(tx) => {
                for batch in chunks.chunks(BATCH) {
                    let mut query = sqlx::query(MOVE_SQLITE.as_str()).bind(old.to_owned()).bind(id);
                    // The last batch is filled up by repeating a chunk: one statement text for all.
                    for (ordinal, chunk) in batch.iter().chain(std::iter::repeat(&batch[0])).take(BATCH) {
                        query = query
                            .bind(chunk.id.as_bytes().to_vec())
                            .bind(length(*ordinal))
                            .bind(offset(chunk.offset))
                            .bind(length(chunk.stored_len))
                            .bind(chunk.sha256.map(|digest| digest.as_bytes().to_vec()));
                    }
                    query.execute(&mut **tx).await?;
                }
            }
            Self::Postgres(tx) => {
                for batch in chunks.chunks(BATCH_POSTGRES) {
                    let digest = |chunk: &NewChunk| chunk.sha256.map(|digest| digest.as_bytes().to_vec());
                    sqlx::query(MOVE_POSTGRES)
                        .bind(old)
                        .bind(id)
                        .bind(batch.iter().map(|(_, c)| &c.id.as_bytes()[..]).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(ordinal, _)| length(*ordinal)).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(_, c)| offset(c.offset)).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(_, c)| length(c.stored_len)).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(_, c)| digest(c)).collect::<Vec<_>>())
                        .execute(&mut **tx)
                        .await?;
                }
            }
        }
        Ok(())
    }
}

/// What versions need of the new pack, from rows of `version_pack` in the order of versions; `None` if one needs what
/// was not copied.
fn translate(
    rows: Vec<(VersionId, PackId, Vec<u8>)>,
    moved: &HashMap<PackId, &[Option<u32>]>,
) -> Option<Vec<(VersionId, ChunkSet)>> {
    let mut needs: Vec<(VersionId, ChunkSet)> = Vec::new();
    for (version, pack, chunks) in rows {
        let moved = moved.get(&pack)?;
        if needs.last().is_none_or(|(last, _)| *last != version) {
            needs.push((version, ChunkSet::default()));
        }
        let (_, needed) = needs.last_mut()?;
        for ordinal in ChunkSet::from_bytes(chunks).ordinals() {
            needed.insert((*moved.get(ordinal as usize)?)?);
        }
    }
    needs.retain(|(_, needed)| !needed.is_empty());
    Some(needs)
}

/// A number for the database; all are bounded far below.
fn number(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn length(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PackId = PackId(1);
    const TWO: PackId = PackId(2);

    fn translated(rows: &[(i64, PackId, u8)]) -> Option<Vec<(i64, Vec<u32>)>> {
        // Chunk 0 of the first pack and chunk 3 of the second are the same.
        let (one, two) = ([Some(0), None, Some(1)], [None, Some(2), None, Some(0)]);
        let moved = HashMap::from([(ONE, &one[..]), (TWO, &two[..])]);
        let rows =
            rows.iter().map(|(version, pack, bits)| (VersionId(*version), *pack, vec![*bits])).collect();
        let needs = translate(rows, &moved)?;
        Some(needs.into_iter().map(|(version, set)| (version.0, set.ordinals().collect())).collect())
    }

    #[test]
    fn needs_of_several_packs_become_needs_of_one() {
        let rows = [(5, ONE, 0b101), (5, TWO, 0b1010), (6, TWO, 0b1000), (7, ONE, 0b100), (9, TWO, 0)];
        let expected = vec![(5, vec![0, 1, 2]), (6, vec![0]), (7, vec![1])];
        assert_eq!(translated(&rows), Some(expected));
    }

    #[test]
    fn what_was_not_copied_must_not_be_needed() {
        assert_eq!(translated(&[(5, ONE, 0b101), (6, ONE, 0b10)]), None);
        assert_eq!(translated(&[(5, ONE, 0b1000)]), None, "beyond the pack");
        assert_eq!(translated(&[(5, PackId(3), 1)]), None, "another pack");
    }
}
