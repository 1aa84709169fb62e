//! Versions.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use kkartifact_model::api::version::{BuildInfo, Version, VersionState};
use kkartifact_model::{
    AppName, ChannelName, ChunkId, ManifestDigest, ProjectName, TreeDigest, VersionName, VersionRef,
};

use crate::error::StoreError;
use crate::id::{AppId, PrincipalId, VersionId};
use crate::tx::{Tx, execute, fetch_one, fetch_optional, statements};

/// A version's row, with the names above it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct VersionRow {
    /// Row id.
    pub id: VersionId,
    /// Whose.
    pub app_id: AppId,
    /// Whose.
    #[sqlx(try_from = "String")]
    pub project: ProjectName,
    /// Whose.
    #[sqlx(try_from = "String")]
    pub app: AppName,
    /// Its name.
    #[sqlx(try_from = "String")]
    pub name: VersionName,
    /// Where it is in its life.
    #[sqlx(try_from = "String")]
    pub state: VersionState,
    /// Counts the changes of state.
    pub revision: i64,
    /// What makes the content the same.
    #[sqlx(try_from = "Vec<u8>")]
    pub tree_digest: TreeDigest,
    /// What makes the manifest the same.
    #[sqlx(try_from = "Vec<u8>")]
    pub manifest_digest: ManifestDigest,
    /// The chunk that holds the manifest's root.
    #[sqlx(try_from = "Vec<u8>")]
    pub manifest_root: ChunkId,
    /// BLAKE3 of the stored `meta.yaml`.
    #[sqlx(try_from = "Vec<u8>")]
    pub meta_digest: ChunkId,
    /// Entries of all kinds.
    #[sqlx(try_from = "i64")]
    pub entry_count: u64,
    /// Regular files.
    #[sqlx(try_from = "i64")]
    pub file_count: u64,
    /// Bytes of all files.
    #[sqlx(try_from = "i64")]
    pub bytes: u64,
    /// The commit that it was built from.
    pub git_commit: Option<String>,
    /// When it was built.
    pub build_time: Option<DateTime<Utc>>,
    /// Where or by whom it was built.
    pub builder: Option<String>,
    /// When it was published.
    pub created_at: DateTime<Utc>,
    /// Who pushed it.
    pub created_by_name: String,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// What somebody wants to say about it.
    pub notes: String,
    /// Retention leaves it alone.
    pub pinned: bool,
    /// Nothing and nobody deletes it.
    pub legal_hold: bool,
}

impl VersionRow {
    /// As the API shows it, with what stands in other tables.
    pub(crate) fn into_version(
        self,
        channels: Vec<ChannelName>,
        labels: BTreeMap<String, String>,
    ) -> Version {
        Version {
            project: self.project,
            app: self.app,
            version: self.name,
            state: self.state,
            tree_digest: self.tree_digest,
            manifest_digest: self.manifest_digest,
            entry_count: self.entry_count,
            file_count: self.file_count,
            bytes: self.bytes,
            build: BuildInfo {
                git_commit: self.git_commit,
                build_time: self.build_time,
                builder: self.builder,
            },
            created_at: self.created_at,
            created_by: self.created_by_name,
            deleted_at: self.deleted_at,
            channels,
            notes: self.notes,
            labels,
            pinned: self.pinned,
            legal_hold: self.legal_hold,
        }
    }
}

/// A version to be published.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Whose.
    pub app_id: AppId,
    /// Its name.
    pub name: VersionName,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// What makes the manifest the same.
    pub manifest_digest: ManifestDigest,
    /// The chunk that holds the manifest's root.
    pub manifest_root: ChunkId,
    /// BLAKE3 of the stored `meta.yaml`.
    pub meta_digest: ChunkId,
    /// Entries of all kinds.
    pub entry_count: u64,
    /// Regular files.
    pub file_count: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// How it was built.
    pub build: BuildInfo,
    /// Who pushed it.
    pub created_by: PrincipalId,
    /// What people call them.
    pub created_by_name: String,
}

// The columns of a row, of a version `v` that has the names of its app `a` and project `p`. What is archived has the
// state of a deleted one in the table, so that what must leave those alone leaves it alone too.
macro_rules! version_columns {
    () => {
        "v.id, v.app_id, p.name AS project, a.name AS app, v.name,
            CASE WHEN v.state = 'deleted' AND v.archived THEN 'archived' ELSE v.state END AS state,
            v.revision, v.tree_digest, v.manifest_digest, v.manifest_root, v.meta_digest, v.entry_count, v.file_count,
            v.bytes, v.git_commit, v.build_time, v.builder, v.created_at, v.created_by_name, v.deleted_at, v.notes,
            v.pinned, v.legal_hold "
    };
}
macro_rules! version_names {
    () => {
        "JOIN app a ON a.id = v.app_id JOIN project p ON p.id = a.project_id "
    };
}
macro_rules! columns {
    () => {
        concat!("SELECT ", version_columns!(), "FROM version v ", version_names!())
    };
}
pub(crate) use {version_columns, version_names};

statements! {
    INSERT = "INSERT INTO version (app_id, name, state, revision, tree_digest, manifest_digest, manifest_root,
            meta_digest, entry_count, file_count, bytes, git_commit, build_time, builder, notes, created_at,
            created_by, created_by_name, legal_hold, pinned)
        VALUES ($1, $2, 'published', 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, '', $13, $14, $15, FALSE, FALSE)
        RETURNING id";
    GET = concat!(columns!(), "WHERE v.id = $1");
    FIND = concat!(columns!(), "WHERE v.app_id = $1 AND v.name = $2");
    FIND_BY_CHANNEL = concat!(columns!(), "JOIN channel c ON c.version_id = v.id
        WHERE c.app_id = $1 AND c.name = $2");
    FIND_LATEST = concat!(columns!(), "WHERE v.app_id = $1 AND v.state = 'published'
        ORDER BY v.created_at DESC, v.id DESC LIMIT 1");
    SET_STATE = "UPDATE version SET state = $2, archived = FALSE, deleted_at = $3, revision = revision + 1,
            quarantined = $4
        WHERE id = $1";
    DELETE = "UPDATE version SET state = 'deleted', archived = FALSE, deleted_at = $2, revision = revision + 1
        WHERE id = $1";
    // No time from which on its bytes may go.
    ARCHIVE = "UPDATE version SET state = 'deleted', archived = TRUE, deleted_at = NULL, revision = revision + 1
        WHERE id = $1";
    RESTORE = "UPDATE version SET state = CASE WHEN quarantined THEN 'quarantined' ELSE 'published' END,
            archived = FALSE, deleted_at = NULL, revision = revision + 1, restored_at = $2
        WHERE id = $1";
    REVIVE = "UPDATE version SET state = CASE WHEN quarantined THEN 'quarantined' ELSE 'published' END,
            archived = FALSE, deleted_at = NULL, revision = revision + 1, restored_at = $5,
            manifest_digest = $2, manifest_root = $3, meta_digest = $4 WHERE id = $1";
}

impl Tx {
    /// Publishes a version. [`StoreError::Conflict`] if the name is taken.
    pub async fn insert_version(
        &mut self,
        new: &NewVersion,
        now: DateTime<Utc>,
    ) -> Result<VersionId, StoreError> {
        let (id,) = fetch_one!(
            self,
            (VersionId,),
            INSERT,
            new.app_id,
            new.name.as_str(),
            &new.tree_digest.as_bytes()[..],
            &new.manifest_digest.as_bytes()[..],
            &new.manifest_root.as_bytes()[..],
            &new.meta_digest.as_bytes()[..],
            number(new.entry_count),
            number(new.file_count),
            number(new.bytes),
            new.build.git_commit.as_deref(),
            new.build.build_time,
            new.build.builder.as_deref(),
            now,
            new.created_by,
            new.created_by_name.as_str(),
        )?;
        Ok(id)
    }

    /// The version of this id.
    pub async fn version(&mut self, id: VersionId) -> Result<Option<VersionRow>, StoreError> {
        fetch_optional!(self, VersionRow, GET, id)
    }

    /// The version that a caller means, in whatever state.
    pub async fn find_version(
        &mut self,
        app: AppId,
        which: &VersionRef,
    ) -> Result<Option<VersionRow>, StoreError> {
        match which {
            VersionRef::Name(name) => fetch_optional!(self, VersionRow, FIND, app, name.as_str()),
            VersionRef::Channel(name) => {
                fetch_optional!(self, VersionRow, FIND_BY_CHANNEL, app, name.as_str())
            }
            VersionRef::Latest => fetch_optional!(self, VersionRow, FIND_LATEST, app),
        }
    }

    /// Quarantines or releases a version.
    pub async fn set_version_state(&mut self, id: VersionId, state: VersionState) -> Result<(), StoreError> {
        let (none, quarantined) = (None::<DateTime<Utc>>, state == VersionState::Quarantined);
        execute!(self, SET_STATE, id, state.as_str(), none, quarantined).map(drop)
    }

    /// Tombstones a version.
    pub async fn delete_version(&mut self, id: VersionId, now: DateTime<Utc>) -> Result<(), StoreError> {
        execute!(self, DELETE, id, now).map(drop)
    }

    /// Archives a version.
    pub async fn archive_version(&mut self, id: VersionId) -> Result<(), StoreError> {
        execute!(self, ARCHIVE, id).map(drop)
    }

    /// Brings a tombstoned or archived version back, to what it was.
    pub async fn restore_version(&mut self, id: VersionId, now: DateTime<Utc>) -> Result<(), StoreError> {
        execute!(self, RESTORE, id, now).map(drop)
    }

    /// Brings back a version whose content was collected, with a manifest of the same tree.
    pub async fn revive_version(
        &mut self,
        id: VersionId,
        new: &NewVersion,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let (manifest, root) = (&new.manifest_digest.as_bytes()[..], &new.manifest_root.as_bytes()[..]);
        execute!(self, REVIVE, id, manifest, root, &new.meta_digest.as_bytes()[..], now).map(drop)
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
