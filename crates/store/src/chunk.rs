//! Where chunks are. The only table whose rows grow with content, so it is asked and filled in bulk.

use std::collections::HashMap;
use std::sync::LazyLock;

use kkartifact_model::{ChunkId, FileDigest};
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::{AppId, PackId, ProjectId};
use crate::tx::{Tx, execute, fetch_optional, statements};

/// A chunk of a durable pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewChunk {
    /// Its name.
    pub id: ChunkId,
    /// Where in the pack its stored bytes begin.
    pub offset: u64,
    /// How many bytes are stored.
    pub stored_len: u32,
    /// Bytes before compression.
    pub len: u32,
    /// SHA-256 of the bytes before compression, where they came as a whole file.
    pub sha256: Option<FileDigest>,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLocation {
    /// The pack's row.
    pub pack_id: PackId,
    /// The pack's name in storage.
    pub pack: Uuid,
    /// The chunk's place in the pack's footer.
    pub ordinal: u32,
    /// Where in the pack its stored bytes begin.
    pub offset: u64,
    /// How many bytes are stored.
    pub stored_len: u32,
    /// Bytes before compression.
    pub len: u32,
    /// SHA-256 of the bytes before compression, where they came as a whole file.
    pub sha256: Option<FileDigest>,
    /// Whether the app that was asked for has it, not only another one of its project.
    pub own: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(try_from = "Vec<u8>")]
    digest: ChunkId,
    pack_id: PackId,
    key: Uuid,
    #[sqlx(try_from = "i32")]
    ordinal: u32,
    #[sqlx(try_from = "i64")]
    pack_offset: u64,
    #[sqlx(try_from = "i32")]
    stored_len: u32,
    #[sqlx(try_from = "i32")]
    len: u32,
    sha256: Option<Vec<u8>>,
    own: bool,
}

impl From<Row> for (ChunkId, ChunkLocation) {
    fn from(row: Row) -> Self {
        let location = ChunkLocation {
            pack_id: row.pack_id,
            pack: row.key,
            ordinal: row.ordinal,
            offset: row.pack_offset,
            stored_len: row.stored_len,
            len: row.len,
            sha256: row.sha256.as_deref().and_then(|bytes| bytes.try_into().ok()),
            own: row.own,
        };
        (row.digest, location)
    }
}

/// How many chunks one statement asks for or inserts: enough to make the statement's cost vanish, few enough for
/// SQLite's 32,766 parameters.
const BATCH: usize = 500;

macro_rules! columns {
    () => {
        "c.digest, c.pack_id, k.key, c.ordinal, c.pack_offset, c.stored_len, c.len, c.sha256"
    };
}

macro_rules! from_live {
    () => {
        " FROM chunk c JOIN pack k ON k.id = c.pack_id AND k.state = 'live' "
    };
}

macro_rules! insert {
    () => {
        "INSERT INTO chunk (digest, app_id, pack_id, ordinal, pack_offset, stored_len, len, sha256) "
    };
}

statements! {
    VERIFIED = "SELECT sha256 FROM verified_file WHERE list_digest = $1";
    ADD_VERIFIED = "INSERT INTO verified_file (list_digest, sha256) VALUES ($1, $2)
        ON CONFLICT (list_digest) DO NOTHING";
    LOCATE_POSTGRES = concat!(
    "SELECT ",
    columns!(),
    ", TRUE AS own",
    from_live!(),
    "WHERE c.app_id = $1 AND c.digest = ANY($2)"
);
// One row a chunk, the app's own one first: a chunk may be known to many apps of a project.
LOCATE_IN_PROJECT_POSTGRES = concat!(
    "SELECT DISTINCT ON (c.digest) ",
    columns!(),
    ", (c.app_id = $2) AS own",
    from_live!(),
    "WHERE k.project_id = $1 AND c.digest = ANY($3) ORDER BY c.digest, (c.app_id = $2) DESC"
);
INSERT_POSTGRES = concat!(
    insert!(),
    "SELECT u.digest, $1, u.pack_id, u.ordinal, u.pack_offset, u.stored_len, u.len, u.sha256
    FROM UNNEST($2::BYTEA[], $3::BIGINT[], $4::INTEGER[], $5::BIGINT[], $6::INTEGER[], $7::INTEGER[], $8::BYTEA[])
        AS u (digest, pack_id, ordinal, pack_offset, stored_len, len, sha256)
    ON CONFLICT (digest, app_id) DO NOTHING"
);
}

/// A list of parameters from `?first` on.
fn list(first: usize) -> String {
    let list: Vec<_> = (first..first + BATCH).map(|i| format!("?{i}")).collect();
    list.join(", ")
}

static LOCATE_SQLITE: LazyLock<String> = LazyLock::new(|| {
    let select = concat!("SELECT ", columns!(), ", TRUE AS own", from_live!());
    format!("{select} WHERE c.app_id = ?1 AND c.digest IN ({})", list(2))
});
// With MAX, SQLite takes the other columns from the row that has it.
static LOCATE_IN_PROJECT_SQLITE: LazyLock<String> = LazyLock::new(|| {
    let select = concat!("SELECT ", columns!(), ", MAX(c.app_id = ?2) AS own", from_live!());
    format!("{select} WHERE k.project_id = ?1 AND c.digest IN ({}) GROUP BY c.digest", list(3))
});
static INSERT_SQLITE: LazyLock<[String; 2]> = LazyLock::new(|| {
    [BATCH, 1].map(|rows| {
        let row = "(?, ?, ?, ?, ?, ?, ?, ?)";
        format!("{}VALUES {} ON CONFLICT (digest, app_id) DO NOTHING", insert!(), vec![row; rows].join(", "))
    })
});

/// Where the chunks of one scope are, in batches.
macro_rules! locate {
    ($tx:expr, $ids:expr, $sqlite:expr, $postgres:expr, $($scope:expr),+) => {{
        let mut found = HashMap::with_capacity($ids.len());
        for batch in $ids.chunks(BATCH) {
            let rows = match $tx {
                Tx::Sqlite(tx) => {
                    let mut query = sqlx::query_as::<_, Row>($sqlite.as_str())$(.bind($scope))+;
                    // The last batch is filled up by repeating an id: one statement text for all.
                    for id in batch.iter().chain(std::iter::repeat(&batch[0])).take(BATCH) {
                        query = query.bind(&id.as_bytes()[..]);
                    }
                    query.fetch_all(&mut **tx).await?
                }
                Tx::Postgres(tx) => {
                    let ids: Vec<&[u8]> = batch.iter().map(|id| &id.as_bytes()[..]).collect();
                    sqlx::query_as::<_, Row>($postgres)$(.bind($scope))+.bind(ids).fetch_all(&mut **tx).await?
                }
            };
            found.extend(rows.into_iter().map(<(ChunkId, ChunkLocation)>::from));
        }
        Ok(found)
    }};
}

impl Tx {
    /// Where the chunks are that an app has; those that it has not are absent. Callers bound the number of ids.
    pub async fn locate_chunks(
        &mut self,
        app: AppId,
        ids: &[ChunkId],
    ) -> Result<HashMap<ChunkId, ChunkLocation>, StoreError> {
        locate!(self, ids, LOCATE_SQLITE, LOCATE_POSTGRES, app)
    }

    /// Where the chunks are that any app of a project has, and whether the app itself has them. Only for bytes
    /// that the caller has just sent: nobody may learn from it what other apps have.
    pub async fn locate_chunks_in_project(
        &mut self,
        project: ProjectId,
        app: AppId,
        ids: &[ChunkId],
    ) -> Result<HashMap<ChunkId, ChunkLocation>, StoreError> {
        locate!(self, ids, LOCATE_IN_PROJECT_SQLITE, LOCATE_IN_PROJECT_POSTGRES, project, app)
    }

    /// Records the chunks of a pack in the order of its footer. Chunks that the app has already stay where they are.
    pub(crate) async fn insert_chunks(
        &mut self,
        app: AppId,
        pack: PackId,
        chunks: &[NewChunk],
    ) -> Result<(), StoreError> {
        let rows: Vec<_> = (0..).zip(chunks).map(|(ordinal, chunk)| (pack, ordinal, *chunk)).collect();
        self.insert_chunk_rows(app, rows).await
    }

    /// Lets an app have chunks that it has sent and that the project has already.
    pub async fn link_chunks(
        &mut self,
        app: AppId,
        chunks: &[(ChunkId, ChunkLocation)],
    ) -> Result<(), StoreError> {
        let row = |(id, at): &(ChunkId, ChunkLocation)| {
            let chunk = NewChunk {
                id: *id,
                offset: at.offset,
                stored_len: at.stored_len,
                len: at.len,
                sha256: at.sha256,
            };
            (at.pack_id, at.ordinal, chunk)
        };
        self.insert_chunk_rows(app, chunks.iter().map(row).collect()).await
    }

    async fn insert_chunk_rows(
        &mut self,
        app: AppId,
        mut rows: Vec<(PackId, u32, NewChunk)>,
    ) -> Result<(), StoreError> {
        // In the order of the index, so that pages are touched once.
        rows.sort_unstable_by_key(|(_, _, chunk)| chunk.id);
        match self {
            Self::Sqlite(tx) => {
                let [many, one] = &*INSERT_SQLITE;
                let whole = rows.len() / BATCH * BATCH;
                let (batches, rest) = rows.split_at(whole);
                for (sql, batch) in
                    batches.chunks(BATCH).map(|b| (many, b)).chain(rest.chunks(1).map(|b| (one, b)))
                {
                    let mut query = sqlx::query(sql.as_str());
                    for (pack, ordinal, chunk) in batch {
                        query = query
                            .bind(chunk.id.as_bytes().to_vec())
                            .bind(app)
                            .bind(*pack)
                            .bind(i64::from(*ordinal))
                            .bind(offset(chunk.offset))
                            .bind(i64::from(chunk.stored_len))
                            .bind(i64::from(chunk.len))
                            .bind(chunk.sha256.map(|digest| digest.as_bytes().to_vec()));
                    }
                    query.execute(&mut **tx).await?;
                }
            }
            Self::Postgres(tx) => {
                for batch in rows.chunks(BATCH * 10) {
                    let column = |f: fn(&NewChunk) -> i32| -> Vec<i32> {
                        batch.iter().map(|(_, _, c)| f(c)).collect()
                    };
                    sqlx::query(INSERT_POSTGRES)
                        .bind(app)
                        .bind(batch.iter().map(|(_, _, c)| &c.id.as_bytes()[..]).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(pack, _, _)| pack.0).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(_, ordinal, _)| length(*ordinal)).collect::<Vec<_>>())
                        .bind(batch.iter().map(|(_, _, c)| offset(c.offset)).collect::<Vec<_>>())
                        .bind(column(|c| length(c.stored_len)))
                        .bind(column(|c| length(c.len)))
                        .bind(
                            batch
                                .iter()
                                .map(|(_, _, c)| c.sha256.as_ref().map(|digest| &digest.as_bytes()[..]))
                                .collect::<Vec<_>>(),
                        )
                        .execute(&mut **tx)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Whether a file of these chunks has been found to have this SHA-256.
    pub async fn is_verified_file(
        &mut self,
        list_digest: &[u8; 32],
        sha256: &FileDigest,
    ) -> Result<bool, StoreError> {
        let row = fetch_optional!(self, (Vec<u8>,), VERIFIED, &list_digest[..])?;
        Ok(row.is_some_and(|(found,)| found == sha256.as_bytes()))
    }

    /// Notes that a file of these chunks has this SHA-256.
    pub async fn add_verified_file(
        &mut self,
        list_digest: &[u8; 32],
        sha256: &FileDigest,
    ) -> Result<(), StoreError> {
        execute!(self, ADD_VERIFIED, &list_digest[..], &sha256.as_bytes()[..]).map(drop)
    }
}

/// A length for the database; lengths are bounded far below.
fn length(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
