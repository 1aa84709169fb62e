//! Packs, and what of them versions need.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::chunk::NewChunk;
use crate::error::StoreError;
use crate::id::{AppId, ElementId, PackId, ProjectId, VersionId};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A pack that is durable in storage and now gets its rows.
#[derive(Debug)]
pub struct NewPack<'a> {
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
    /// What it holds, in the order of its footer.
    pub chunks: &'a [NewChunk],
}

/// A pack's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PackRow {
    /// Row id.
    pub id: PackId,
    /// Its name in storage.
    pub key: Uuid,
    /// Bytes of the object.
    #[sqlx(try_from = "i64")]
    pub size: u64,
}

/// The chunks of one pack that a version needs: one bit per ordinal, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPack {
    /// Which pack.
    pub pack: PackId,
    /// Which chunks.
    pub chunks: Vec<u8>,
}

statements! {
    ADD_ELEMENT = "INSERT INTO storage_element (name, kind, mode, config, created_at)
        VALUES ('default', 'directory', 'rw', '{}', $1) ON CONFLICT (name) DO NOTHING";
    DEFAULT_ELEMENT = "SELECT id FROM storage_element WHERE name = 'default'";
    INSERT = "INSERT INTO pack (key, element_id, project_id, app_id, size, chunk_count, state, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, 'live', $7) ON CONFLICT (key) DO NOTHING RETURNING id";
    FIND = "SELECT id, key, size FROM pack WHERE key = $1";
    FIND_LIVE = "SELECT id FROM pack WHERE key = $1 AND state = 'live'";
    LIST = "SELECT id, key, size FROM pack WHERE id > $1 ORDER BY id LIMIT $2";
    ADD_TO_VERSION = "INSERT INTO version_pack (version_id, pack_id, chunks) VALUES ($1, $2, $3)
        ON CONFLICT (version_id, pack_id) DO UPDATE SET chunks = EXCLUDED.chunks";
    // Sharing the row's lock keeps garbage collection from claiming the pack until the transaction ends.
    LOCK_POSTGRES = "SELECT id FROM pack WHERE id = $1 AND state = 'live' FOR SHARE";
    LOCK_SQLITE = "SELECT id FROM pack WHERE id = $1 AND state = 'live'";
}

impl Tx {
    /// The storage element that new packs go to; made at the first start.
    pub async fn default_element(&mut self, now: DateTime<Utc>) -> Result<ElementId, StoreError> {
        execute!(self, ADD_ELEMENT, now)?;
        let (id,) = fetch_one!(self, (ElementId,), DEFAULT_ELEMENT)?;
        Ok(id)
    }

    /// Records a durable pack and where its chunks are. Recording it twice changes nothing. `None` if somebody has
    /// recorded it before and it is claimed since, or about to be gone.
    ///
    /// A new row does not say that the object is still there: it may have been recorded before, claimed, and removed
    /// with that row. Once the row is this transaction's nobody else removes it, so a look at the object tells.
    pub async fn insert_pack(
        &mut self,
        new: &NewPack<'_>,
        now: DateTime<Utc>,
    ) -> Result<Option<PackId>, StoreError> {
        let size = i64::try_from(new.size).unwrap_or(i64::MAX);
        let count = i32::try_from(new.chunks.len()).unwrap_or(i32::MAX);
        let inserted = fetch_optional!(
            self,
            (PackId,),
            INSERT,
            new.key,
            new.element,
            new.project,
            new.app,
            size,
            count,
            now
        )?;
        let Some((id,)) = inserted else {
            let found = fetch_optional!(self, (PackId,), FIND_LIVE, new.key)?;
            return Ok(found.map(|(id,)| id));
        };
        self.insert_chunks(new.app, id, new.chunks).await?;
        Ok(Some(id))
    }

    /// The pack of this name.
    pub async fn find_pack(&mut self, key: Uuid) -> Result<Option<PackRow>, StoreError> {
        fetch_optional!(self, PackRow, FIND, key)
    }

    /// Packs behind an id, by id.
    pub async fn list_packs(&mut self, after: PackId, limit: u32) -> Result<Vec<PackRow>, StoreError> {
        fetch_all!(self, PackRow, LIST, after, i64::from(limit))
    }

    /// Relies on packs until the transaction ends; those that are gone or about to go are returned. `packs` is
    /// sorted, so that two transactions never wait for each other in a circle.
    pub async fn lock_packs(&mut self, packs: &[PackId]) -> Result<Vec<PackId>, StoreError> {
        debug_assert!(packs.is_sorted());
        let sql = match self {
            // The single writer is lock enough.
            Self::Sqlite(_) => LOCK_SQLITE,
            Self::Postgres(_) => LOCK_POSTGRES,
        };
        let mut gone = Vec::new();
        for pack in packs {
            if fetch_optional!(self, (PackId,), sql, *pack)?.is_none() {
                gone.push(*pack);
            }
        }
        Ok(gone)
    }

    /// Records what of which packs a version needs.
    pub async fn insert_version_packs(
        &mut self,
        version: VersionId,
        packs: &[VersionPack],
    ) -> Result<(), StoreError> {
        for pack in packs {
            execute!(self, ADD_TO_VERSION, version, pack.pack, pack.chunks.as_slice())?;
        }
        Ok(())
    }
}
