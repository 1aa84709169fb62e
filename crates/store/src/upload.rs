//! Uploads: drafts that are private to who opened them.

use chrono::{DateTime, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::upload::{Upload, UploadState};
use kkartifact_model::api::version::{AgentInfo, BuildInfo};
use kkartifact_model::{AppName, ChunkId, FileDigest, ProjectName, TreeDigest, TreePath, VersionName};
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::{AppId, PackId, PrincipalId, VersionId};
use crate::page::{Cursor, PageQuery};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// An upload's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UploadRow {
    seq: i64,
    /// Names it.
    pub id: Uuid,
    /// Whose.
    pub app_id: AppId,
    /// Whose.
    #[sqlx(try_from = "String")]
    pub project: ProjectName,
    /// Whose.
    #[sqlx(try_from = "String")]
    pub app: AppName,
    /// What the version will be called.
    #[sqlx(try_from = "String")]
    pub version_name: VersionName,
    /// Who opened it. Nobody else may use it.
    pub principal_id: PrincipalId,
    /// What people call them.
    pub principal_name: String,
    /// Where it is.
    #[sqlx(try_from = "String")]
    pub state: UploadState,
    tree_digest: Option<Vec<u8>>,
    /// The version that the manifest is told by.
    pub base_version_id: Option<VersionId>,
    manifest_root: Option<Vec<u8>>,
    git_commit: Option<String>,
    build_time: Option<DateTime<Utc>>,
    builder: Option<String>,
    agent_id: Option<String>,
    agent_host: Option<String>,
    /// What it became.
    pub version_id: Option<VersionId>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it is closed if nothing happens.
    pub expires_at: DateTime<Utc>,
}

impl UploadRow {
    /// What the content was announced to be.
    pub fn tree_digest(&self) -> Option<TreeDigest> {
        self.tree_digest.as_deref().and_then(|bytes| bytes.try_into().ok())
    }

    /// The root of the manifest, once it has been sent.
    pub fn manifest_root(&self) -> Option<ChunkId> {
        self.manifest_root.as_deref().and_then(|bytes| bytes.try_into().ok())
    }

    /// How it was built.
    pub fn build(&self) -> BuildInfo {
        BuildInfo {
            git_commit: self.git_commit.clone(),
            build_time: self.build_time,
            builder: self.builder.clone(),
        }
    }

    /// Who pushes.
    pub fn agent(&self) -> Option<AgentInfo> {
        Some(AgentInfo { id: self.agent_id.clone()?, host: self.agent_host.clone()? })
    }

    /// Whether it takes content at `now`.
    pub fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.state == UploadState::Open && now < self.expires_at
    }
}

impl From<UploadRow> for Upload {
    fn from(row: UploadRow) -> Self {
        Self {
            upload_id: row.id,
            project: row.project,
            app: row.app,
            version: row.version_name,
            state: row.state,
            created_by: row.principal_name,
            created_at: row.created_at,
            expires_at: row.expires_at,
        }
    }
}

/// An upload to be opened.
#[derive(Debug)]
pub struct NewUpload<'a> {
    /// Names it.
    pub id: Uuid,
    /// Whose.
    pub app: AppId,
    /// What the version will be called.
    pub version: &'a VersionName,
    /// Who opens it.
    pub principal: PrincipalId,
    /// What people call them.
    pub principal_name: &'a str,
    /// What the content is announced to be.
    pub tree_digest: Option<TreeDigest>,
    /// The version that the manifest is told by.
    pub base: Option<VersionId>,
    /// How it was built.
    pub build: &'a BuildInfo,
    /// Who pushes.
    pub agent: Option<&'a AgentInfo>,
    /// When it is closed if nothing happens.
    pub expires_at: DateTime<Utc>,
}

/// A file of an upload, announced or put.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UploadFileRow {
    /// Where.
    #[sqlx(try_from = "String")]
    pub path: TreePath,
    expected_sha256: Option<Vec<u8>>,
    expected_size: Option<i64>,
    /// The manifest record, once the content is there.
    pub record: Option<Vec<u8>>,
}

impl UploadFileRow {
    /// What was announced.
    pub fn expected(&self) -> Option<(FileDigest, u64)> {
        let sha256 = self.expected_sha256.as_deref()?.try_into().ok()?;
        Some((sha256, u64::try_from(self.expected_size?).ok()?))
    }
}

macro_rules! columns {
    () => {
        "SELECT u.seq, u.id, u.app_id, p.name AS project, a.name AS app, u.version_name, u.principal_id, u.principal_name,
            u.state, u.tree_digest, u.base_version_id, u.manifest_root, u.git_commit, u.build_time, u.builder,
            u.agent_id, u.agent_host, u.version_id, u.created_at, u.expires_at
        FROM upload u JOIN app a ON a.id = u.app_id JOIN project p ON p.id = a.project_id "
    };
}

statements! {
    INSERT = "INSERT INTO upload (id, app_id, version_name, principal_id, principal_name, state, tree_digest,
            base_version_id, git_commit, build_time, builder, agent_id, agent_host, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, 'open', $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    FIND = concat!(columns!(), "WHERE u.id = $1 AND u.principal_id = $2");
    FIND_OPEN = concat!(columns!(), "WHERE u.app_id = $1 AND u.version_name = $2 AND u.principal_id = $3
        AND u.state = 'open' AND u.expires_at > $4 ORDER BY u.seq DESC LIMIT 1");
    LIST = concat!(columns!(), "WHERE u.app_id = $1 AND u.state = 'open' AND u.seq < $2
        ORDER BY u.seq DESC LIMIT $3 OFFSET $4");
    COUNT = "SELECT COUNT(*) FROM upload WHERE app_id = $1 AND state = 'open'";
    SET_MANIFEST = "UPDATE upload SET manifest_root = $2, expires_at = $3 WHERE id = $1 AND state = 'open'";
    TOUCH = "UPDATE upload SET expires_at = $2 WHERE id = $1 AND state = 'open'";
    CLOSE = "UPDATE upload SET state = $2, version_id = $3 WHERE id = $1 AND state = 'open'";
    UNPIN = "DELETE FROM upload_pack WHERE upload_id = $1";
    FORGET_FILES = "DELETE FROM upload_file WHERE upload_id = $1";
    EXPIRED = "SELECT id FROM upload WHERE state = 'open' AND expires_at <= $1 ORDER BY expires_at LIMIT $2";
    PIN = "INSERT INTO upload_pack (upload_id, pack_id) VALUES ($1, $2) ON CONFLICT (upload_id, pack_id) DO NOTHING";
    PIN_BASE = "INSERT INTO upload_pack (upload_id, pack_id)
        SELECT u.id, b.pack_id FROM upload u JOIN version_pack b ON b.version_id = u.base_version_id WHERE u.id = $1";
    EXPECT = "INSERT INTO upload_file (upload_id, path, expected_sha256, expected_size) VALUES ($1, $2, $3, $4)
        ON CONFLICT (upload_id, path) DO NOTHING";
    PUT_FILE = "INSERT INTO upload_file (upload_id, path, record) VALUES ($1, $2, $3)
        ON CONFLICT (upload_id, path) DO UPDATE SET record = EXCLUDED.record";
    FIND_FILE = "SELECT path, expected_sha256, expected_size, record FROM upload_file
        WHERE upload_id = $1 AND path = $2";
    COUNT_FILES = "SELECT COUNT(*) FROM upload_file WHERE upload_id = $1";
    FILES = "SELECT path, expected_sha256, expected_size, record FROM upload_file
        WHERE upload_id = $1 AND path > $2 ORDER BY path LIMIT $3";
}

impl Tx {
    /// Opens an upload, and keeps what its base needs from being collected.
    pub async fn insert_upload(&mut self, new: &NewUpload<'_>, now: DateTime<Utc>) -> Result<(), StoreError> {
        execute!(
            self,
            INSERT,
            new.id,
            new.app,
            new.version.as_str(),
            new.principal,
            new.principal_name,
            new.tree_digest.as_ref().map(|digest| &digest.as_bytes()[..]),
            new.base,
            new.build.git_commit.as_deref(),
            new.build.build_time,
            new.build.builder.as_deref(),
            new.agent.map(|agent| agent.id.as_str()),
            new.agent.map(|agent| agent.host.as_str()),
            now,
            new.expires_at,
        )?;
        execute!(self, PIN_BASE, new.id).map(drop)
    }

    /// A principal's own upload, in whatever state.
    pub async fn find_upload(
        &mut self,
        id: Uuid,
        principal: PrincipalId,
    ) -> Result<Option<UploadRow>, StoreError> {
        fetch_optional!(self, UploadRow, FIND, id, principal)
    }

    /// A principal's newest open upload of a version.
    pub async fn find_open_upload(
        &mut self,
        app: AppId,
        version: &VersionName,
        principal: PrincipalId,
        now: DateTime<Utc>,
    ) -> Result<Option<UploadRow>, StoreError> {
        fetch_optional!(self, UploadRow, FIND_OPEN, app, version.as_str(), principal, now)
    }

    /// The open uploads of an app, newest first.
    pub async fn list_uploads(&mut self, app: AppId, page: PageQuery) -> Result<Page<Upload>, StoreError> {
        let rows = fetch_all!(self, UploadRow, LIST, app, page.after.id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT, app)?;
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.seq }, Upload::from))
    }

    /// Notes the manifest of an upload; false if the upload is no longer open.
    pub async fn set_upload_manifest(
        &mut self,
        id: Uuid,
        root: &ChunkId,
        expires_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(self, SET_MANIFEST, id, &root.as_bytes()[..], expires_at).map(|rows| rows == 1)
    }

    /// Puts off the end of an open upload; false if it is no longer open.
    pub async fn touch_upload(&mut self, id: Uuid, expires_at: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, TOUCH, id, expires_at).map(|rows| rows == 1)
    }

    /// Closes an open upload and lets go of what it held; false if it was no longer open.
    pub async fn close_upload(
        &mut self,
        id: Uuid,
        state: UploadState,
        version: Option<VersionId>,
    ) -> Result<bool, StoreError> {
        let closed = execute!(self, CLOSE, id, state.as_str(), version)? == 1;
        if closed {
            execute!(self, UNPIN, id)?;
            execute!(self, FORGET_FILES, id)?;
        }
        Ok(closed)
    }

    /// Open uploads whose time is over.
    pub async fn expired_uploads(&mut self, now: DateTime<Utc>, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        let rows = fetch_all!(self, (Uuid,), EXPIRED, now, i64::from(limit))?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Keeps packs from being collected while the upload is open.
    pub async fn pin_packs(&mut self, upload: Uuid, packs: &[PackId]) -> Result<(), StoreError> {
        for pack in packs {
            execute!(self, PIN, upload, *pack)?;
        }
        Ok(())
    }

    /// Notes a file that was announced.
    pub async fn expect_upload_file(
        &mut self,
        upload: Uuid,
        path: &TreePath,
        sha256: &FileDigest,
        size: u64,
    ) -> Result<(), StoreError> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        execute!(self, EXPECT, upload, path.as_str(), &sha256.as_bytes()[..], size).map(drop)
    }

    /// Notes a file whose content is durable.
    pub async fn put_upload_file(
        &mut self,
        upload: Uuid,
        path: &TreePath,
        record: &[u8],
    ) -> Result<(), StoreError> {
        execute!(self, PUT_FILE, upload, path.as_str(), record).map(drop)
    }

    /// A file of an upload.
    pub async fn find_upload_file(
        &mut self,
        upload: Uuid,
        path: &TreePath,
    ) -> Result<Option<UploadFileRow>, StoreError> {
        fetch_optional!(self, UploadFileRow, FIND_FILE, upload, path.as_str())
    }

    /// How many files an upload has, announced or put.
    pub async fn count_upload_files(&mut self, upload: Uuid) -> Result<u64, StoreError> {
        let (count,) = fetch_one!(self, (i64,), COUNT_FILES, upload)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Files of an upload behind a path, by the bytes of their paths.
    pub async fn upload_files(
        &mut self,
        upload: Uuid,
        after: &str,
        limit: u32,
    ) -> Result<Vec<UploadFileRow>, StoreError> {
        fetch_all!(self, UploadFileRow, FILES, upload, after, i64::from(limit))
    }
}
