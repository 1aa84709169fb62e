//! Looking at what is stored, behind the server's back: objects on disk, packs in the database, what versions need.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kkartifact_model::time::Clock;
use kkartifact_model::{TreePath, VersionRef};
use kkartifact_service::{Config, Resources};
use kkartifact_store::PackId;
use tokio::runtime::Handle;

use crate::builds::APPS;

/// The server's data, opened a second time.
pub(crate) struct Storage {
    resources: Resources,
    handle: Handle,
    content: PathBuf,
    is_sqlite: bool,
}

/// A file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object {
    /// Its length.
    pub(crate) bytes: u64,
    /// The blocks that it takes, in bytes.
    pub(crate) on_disk: u64,
    /// Bytes of a block.
    pub(crate) block: u64,
}

/// Packs on disk by their file names.
pub(crate) type Objects = BTreeMap<String, Object>;

/// What live versions need of the packs that there are.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// File names of all packs that have rows.
    pub(crate) packs: BTreeSet<String>,
    /// Stored bytes of all chunks that versions need, where they need them.
    pub(crate) bytes: u64,
    /// The same without chunks that a project has twice.
    pub(crate) distinct: u64,
}

impl Storage {
    /// Opens the data of a server that has started: in its directory, and in its database.
    pub(crate) fn open(handle: &Handle, data_dir: PathBuf, database: Option<String>) -> Self {
        let mut config = Config::default();
        let is_sqlite = database.is_none();
        config.server.data_dir = data_dir;
        config.database.url = database;
        config.database.max_connections = Some(2);
        let content = config.storage_path();
        let resources = handle.block_on(Resources::open(config, Clock::System)).unwrap();
        Self { resources, handle: handle.clone(), content, is_sqlite }
    }

    /// The packs on disk.
    pub(crate) fn objects(&self) -> Objects {
        let mut found = Objects::new();
        for part in list(&self.content.join("packs")) {
            for file in list(&part) {
                // One may be removed while they are listed.
                let Ok(meta) = fs::metadata(&file) else { continue };
                let name = file.file_name().unwrap().to_str().unwrap().to_owned();
                let (bytes, on_disk) = (meta.len(), meta.blocks() * 512);
                found.insert(name, Object { bytes, on_disk, block: meta.blksize() });
            }
        }
        found
    }

    /// What the other documents take on disk: those about versions.
    pub(crate) fn documents(&self) -> u64 {
        ["meta", "versions"].iter().map(|kind| du(&self.content.join(kind))).sum()
    }

    /// The packs that a file of a version is read from; `None` if the server is changing them at this moment.
    pub(crate) fn packs_of(&self, app: usize, version: &str, path: &str) -> Option<BTreeSet<PackId>> {
        let (project, name) = APPS[app];
        let Resources { db, content, .. } = &self.resources;
        self.handle.block_on(async {
            let mut tx = db.read().await.ok()?;
            let app = tx.find_app(&project.parse().unwrap(), &name.parse().unwrap()).await.ok()??;
            let version = VersionRef::Name(version.parse().unwrap());
            let row = tx.find_version(app.id, &version).await.ok()??;
            tx.commit().await.ok()?;
            let root = content.root(app.id, row.manifest_root).await.ok()?;
            let path = TreePath::new(path.to_owned()).unwrap();
            let entry = content.find(app.id, &root, &path).await.ok()??;
            let ids: Vec<_> = entry.file()?.chunks.iter().map(|chunk| chunk.id).collect();
            let found = content.locate(app.id, &ids).await.ok()?;
            ids.iter().map(|id| found.get(id).map(|at| at.pack_id)).collect::<Option<BTreeSet<_>>>()
        })
    }

    /// What live versions need, from the footers of packs and what is recorded of versions. The server has stopped.
    pub(crate) fn needed(&self) -> Needed {
        let Resources { db, blob, .. } = &self.resources;
        self.handle.block_on(async {
            let (mut needed, mut distinct) = (Needed::default(), HashSet::new());
            let mut tx = db.read().await.unwrap();
            let mut after = PackId(0);
            loop {
                let page = tx.list_packs(after, 500).await.unwrap();
                let Some(last) = page.last() else { break };
                after = last.id;
                for pack in page {
                    needed.packs.insert(format!("{}.pack", pack.key));
                    let (footer, _) = blob.read_footer(pack.key).await.unwrap();
                    for ordinal in tx.needed_chunks(pack.id).await.unwrap().ordinals() {
                        let entry = &footer.entries[ordinal as usize];
                        needed.bytes += u64::from(entry.stored_len);
                        if distinct.insert((footer.owner.project.clone(), entry.id)) {
                            needed.distinct += u64::from(entry.stored_len);
                        }
                    }
                }
            }
            tx.commit().await.unwrap();
            needed
        })
    }

    /// A statement that makes all versions old, so that retention may take them: what is younger than an hour it
    /// leaves alone, and the database lets nobody change the time of a version.
    pub(crate) fn ageing(&self) -> String {
        let age = "UPDATE version SET created_at = '2020-01-01T00:00:00+00:00', restored_at = NULL";
        if !self.is_sqlite {
            let switch = |how| format!("ALTER TABLE version {how} TRIGGER version_is_immutable");
            return format!("{}; {age}; {}", switch("DISABLE"), switch("ENABLE"));
        }
        let schema = include_str!("../../../migrations/sqlite/0002_content.sql");
        let (_, trigger) = schema.split_once("CREATE TRIGGER version_is_immutable ").unwrap();
        let (trigger, _) = trigger.split_once("\nEND;").unwrap();
        format!(
            "BEGIN IMMEDIATE; DROP TRIGGER version_is_immutable; {age};
            CREATE TRIGGER version_is_immutable {trigger}\nEND; COMMIT"
        )
    }
}

/// The paths in a directory.
fn list(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What the files below a directory take on disk.
fn du(dir: &Path) -> u64 {
    let size = |path: &PathBuf| {
        let meta = fs::symlink_metadata(path).unwrap();
        if meta.is_dir() { du(path) } else { meta.blocks() * 512 }
    };
    list(dir).iter().map(size).sum()
}

/// What objects take on disk.
pub(crate) fn on_disk(objects: &Objects) -> u64 {
    objects.values().map(|object| object.on_disk).sum()
}
