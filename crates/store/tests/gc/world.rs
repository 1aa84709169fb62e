//! A project with two apps, and what is stored for them.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::version::BuildInfo;
use kkartifact_model::token::TokenText;
use kkartifact_model::{ChunkId, FileDigest, ManifestDigest, Permissions, TreeDigest};
use kkartifact_store::{
    AppRow, ChunkSet, CompactedPack, Compaction, Database, ElementId, NewChunk, NewPack, NewTokenRow,
    NewUpload, NewVersion, PackId, PrincipalId, Tx, VersionId, VersionPack,
};
use kkartifact_testkit::TestDatabase;
use uuid::Uuid;

pub(crate) fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05.000006Z".parse().unwrap()
}

pub(crate) fn minutes(minutes: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(minutes)
}

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) web: AppRow,
    pub(crate) api: AppRow,
    element: ElementId,
    principal: PrincipalId,
    _files: TestDatabase,
}

/// Stored bytes of every chunk.
pub(crate) const STORED: u32 = 100;

/// A chunk at a place of a pack.
pub(crate) fn chunk(text: &str, ordinal: u64) -> NewChunk {
    NewChunk {
        id: ChunkId::of(text.as_bytes()),
        offset: 8 + ordinal * u64::from(STORED),
        stored_len: STORED,
        len: 2 * STORED,
        sha256: None,
    }
}

/// The same with the digest of a file.
pub(crate) fn file(text: &str, ordinal: u64) -> NewChunk {
    NewChunk { sha256: Some(FileDigest::of(text.as_bytes())), ..chunk(text, ordinal) }
}

pub(crate) fn set(ordinals: impl IntoIterator<Item = u32>) -> ChunkSet {
    let mut set = ChunkSet::default();
    ordinals.into_iter().for_each(|ordinal| set.insert(ordinal));
    set
}

impl World {
    pub(crate) async fn new(files: TestDatabase) -> Self {
        let database = files.open().await;
        let mut tx = database.begin().await.unwrap();
        let project = tx.insert_project(&"shop".parse().unwrap(), "", now()).await.unwrap().unwrap();
        for name in ["web", "api"] {
            tx.insert_app(project.id, &name.parse().unwrap(), "", now()).await.unwrap();
        }
        let web = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
        let api = tx.find_app(&"shop".parse().unwrap(), &"api".parse().unwrap()).await.unwrap().unwrap();
        let text = TokenText::from_random([1; 10], [1; 20]);
        let token = NewTokenRow {
            name: "t",
            token_id: text.id(),
            secret_hash: "hash",
            owner: None,
            made_by: None,
            personal: false,
            expires_at: Some(minutes(60)),
            permissions: Permissions::ALL,
            scopes: &[(None, None)],
        };
        let principal = tx.insert_token(&token, now()).await.unwrap();
        let element = tx.default_element(now()).await.unwrap();
        tx.commit().await.unwrap();
        Self { database, web, api, element, principal, _files: files }
    }

    pub(crate) async fn tx(&self) -> Tx {
        self.database.begin().await.unwrap()
    }

    /// A pack of `web` with these chunks, recorded at `at`.
    pub(crate) async fn pack_at(&self, chunks: &[NewChunk], at: DateTime<Utc>) -> PackId {
        let new = NewPack {
            key: Uuid::new_v4(),
            element: self.element,
            project: self.web.project_id,
            app: self.web.id,
            size: chunks.len() as u64 * u64::from(STORED) + 100,
            chunks,
        };
        let mut tx = self.tx().await;
        let id = tx.insert_pack(&new, at).await.unwrap();
        tx.commit().await.unwrap();
        id.unwrap()
    }

    pub(crate) async fn pack(&self, texts: &[&str]) -> PackId {
        let chunks: Vec<_> = (0..).zip(texts).map(|(ordinal, text)| chunk(text, ordinal)).collect();
        self.pack_at(&chunks, now()).await
    }

    /// A published version that needs chunks of packs.
    pub(crate) async fn version(&self, app: &AppRow, name: &str, needs: &[(PackId, &[u32])]) -> VersionId {
        let digest = *ChunkId::of(name.as_bytes()).as_bytes();
        let new = NewVersion {
            app_id: app.id,
            name: name.parse().unwrap(),
            tree_digest: TreeDigest::from_bytes(digest),
            manifest_digest: ManifestDigest::from_bytes(digest),
            manifest_root: ChunkId::from_bytes(digest),
            meta_digest: ChunkId::from_bytes(digest),
            entry_count: 1,
            file_count: 1,
            bytes: 1,
            build: BuildInfo::default(),
            created_by: self.principal,
            created_by_name: "t".into(),
        };
        let needs: Vec<_> = needs
            .iter()
            .map(|(pack, ordinals)| VersionPack {
                pack: *pack,
                chunks: set(ordinals.iter().copied()).as_bytes().to_vec(),
            })
            .collect();
        let mut tx = self.tx().await;
        let id = tx.insert_version(&new, now()).await.unwrap();
        tx.insert_version_packs(id, &needs).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// An open upload that relies on packs.
    pub(crate) async fn upload(&self, base: Option<VersionId>, packs: &[PackId]) -> Uuid {
        let (id, name) = (Uuid::new_v4(), "draft".parse().unwrap());
        let new = NewUpload {
            id,
            app: self.web.id,
            version: &name,
            principal: self.principal,
            principal_name: "t",
            tree_digest: None,
            base,
            build: &BuildInfo::default(),
            agent: None,
            expires_at: minutes(60),
        };
        let mut tx = self.tx().await;
        tx.insert_upload(&new, now()).await.unwrap();
        tx.pin_packs(id, packs).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Lets `api` have chunks of `web`.
    pub(crate) async fn share(&self, texts: &[&str]) {
        let ids: Vec<_> = texts.iter().map(|text| ChunkId::of(text.as_bytes())).collect();
        let mut tx = self.tx().await;
        let found = tx.locate_chunks_in_project(self.api.project_id, self.api.id, &ids).await.unwrap();
        assert_eq!(found.len(), texts.len());
        tx.link_chunks(self.api.id, &found.into_iter().collect::<Vec<_>>()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Where an app has a chunk: its pack and its ordinal there.
    pub(crate) async fn place(&self, app: &AppRow, text: &str) -> Option<(PackId, u32)> {
        let id = ChunkId::of(text.as_bytes());
        let mut tx = self.tx().await;
        let found = tx.locate_chunks(app.id, &[id]).await.unwrap();
        found.get(&id).map(|at| (at.pack_id, at.ordinal))
    }

    /// The chunks of a pack that versions need.
    pub(crate) async fn needed(&self, pack: PackId) -> Vec<u32> {
        self.tx().await.needed_chunks(pack).await.unwrap().ordinals().collect()
    }

    pub(crate) fn compaction<'a>(&self, chunks: &'a [NewChunk], old: &'a [CompactedPack]) -> Compaction<'a> {
        Compaction {
            key: Uuid::new_v4(),
            element: self.element,
            project: self.web.project_id,
            app: self.web.id,
            size: chunks.len() as u64 * u64::from(STORED) + 100,
            chunks,
            old,
        }
    }

    /// Counts and records the live bytes of a pack of so many chunks.
    pub(crate) async fn count(&self, pack: PackId, chunks: usize) -> Option<u64> {
        let size = chunks as u64 * u64::from(STORED) + 100;
        let mut tx = self.tx().await;
        let live = tx.count_live_bytes(pack, size, &vec![STORED; chunks]).await.unwrap();
        tx.commit().await.unwrap();
        live
    }

    /// Runs a statement behind everybody's back; how many rows it changed.
    pub(crate) async fn raw(&self, sql: &'static str) -> u64 {
        match &self.database {
            Database::Sqlite { write, .. } => {
                sqlx::raw_sql(sql).execute(write).await.unwrap().rows_affected()
            }
            Database::Postgres(pool) => sqlx::raw_sql(sql).execute(pool).await.unwrap().rows_affected(),
        }
    }
}
