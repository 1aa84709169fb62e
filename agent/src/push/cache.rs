//! What this host remembers of its last push of a directory: the manifest and the files' stats. It only saves
//! work; without it everything is read and told in full.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kkartifact_model::api::upload::Base;
use kkartifact_model::api::version::Version;
use kkartifact_model::manifest::{RecordWriter, diff};
use kkartifact_model::wire::{encode_end, encode_records};
use kkartifact_model::{AppName, ProjectName};
use rustix::fs::FlockOperation;

use super::scan::ScanFiles;
use crate::config::Config;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;

/// The memory of one directory's pushes to one app. Held by one push at a time.
#[derive(Debug, Clone)]
pub struct PushCache {
    dir: Arc<CacheDir>,
}

#[derive(Debug)]
struct CacheDir {
    path: PathBuf,
    /// Removed at the end, where there is no place to remember anything.
    temporary: bool,
    _lock: fs::File,
}

impl Drop for CacheDir {
    fn drop(&mut self) {
        if self.temporary {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// Records are sent in runs of about this size.
const RUN: usize = 64 << 10;

impl PushCache {
    /// The memory for this directory, app and server.
    pub fn open(config: &Config, project: &ProjectName, app: &AppName, source: &Path) -> Result<Self> {
        let source =
            source.canonicalize().map_err(AgentError::io(format!("opening {}", source.display())))?;
        let server = &config.server_url;
        let key = format!("{server}\0{project}\0{app}\0{}", source.display());
        let name = blake3::hash(key.as_bytes()).to_hex()[..32].to_owned();
        let (path, temporary) = match &config.cache_dir {
            Some(base) => (base.join("push").join(name), false),
            None => (std::env::temp_dir().join(format!("kkartifact-push-{}", uuid::Uuid::new_v4())), true),
        };
        fs::create_dir_all(&path).map_err(AgentError::io(format!("creating {}", path.display())))?;
        let lock = fs::File::create(path.join("lock")).map_err(AgentError::io("creating a lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| AgentError::new(Kind::Busy, "another push of this directory is in progress"))?;
        Ok(Self { dir: Arc::new(CacheDir { path, temporary, _lock: lock }) })
    }

    /// A file of the memory.
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path.join(name)
    }

    /// What a scan knows from the last push, and where it writes.
    pub(super) fn scan_files(&self) -> ScanFiles {
        ScanFiles {
            old_manifest: self.manifest(),
            old_stats: self.file("stats"),
            manifest: self.file("new-manifest"),
            stats: self.file("new-stats"),
        }
    }

    /// The manifest of the last push.
    pub fn manifest(&self) -> Option<ManifestFile> {
        ManifestFile::open(&self.file("manifest")).ok()
    }

    /// The version of the last push, if the server's manifest was this host's own.
    pub fn base(&self) -> Option<Base> {
        let base: Base = serde_json::from_slice(&fs::read(self.file("base.json")).ok()?).ok()?;
        self.manifest().filter(|manifest| manifest.root().manifest_digest == base.manifest_digest)?;
        Some(base)
    }

    /// Writes the stream that tells a manifest: whole, or by the last push's.
    pub fn write_stream(&self, manifest: &ManifestFile, by_base: bool) -> Result<PathBuf> {
        let path = self.file("stream");
        let file = fs::File::create(&path).map_err(AgentError::io("writing the manifest stream"))?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        let mut write =
            |bytes: &[u8]| out.write_all(bytes).map_err(AgentError::io("writing the manifest stream"));
        let base = self.manifest().filter(|_| by_base);
        if let Some(base) = base {
            let (mut records, mut count) = (RecordWriter::default(), 0);
            for change in diff(base.entries(), manifest.entries()) {
                records.push(&change?.into_record());
                count += 1;
                if records.len() >= RUN {
                    write(&encode_records(&records.take()))?;
                }
            }
            if !records.is_empty() {
                write(&encode_records(&records.take()))?;
            }
            write(&encode_end(count))?;
        } else {
            for block in 0..manifest.root().blocks.len() {
                write(&encode_records(&manifest.records(block)?))?;
            }
            write(&encode_end(manifest.root().entries()))?;
        }
        out.flush().map_err(AgentError::io("writing the manifest stream"))?;
        Ok(path)
    }

    /// Remembers a push.
    pub fn keep(&self, manifest: &ManifestFile, published: &Version) -> Result<()> {
        let rename = |from: &str, to: &str| {
            fs::rename(self.file(from), self.file(to)).map_err(AgentError::io("remembering the push"))
        };
        drop(fs::remove_file(self.file("base.json")));
        rename("new-manifest", "manifest")?;
        rename("new-stats", "stats")?;
        drop(fs::remove_file(self.file("stream")));
        let digest = manifest.root().manifest_digest;
        if published.manifest_digest == digest {
            let base = Base { version: published.version.clone(), manifest_digest: digest };
            let text = serde_json::to_vec(&base).unwrap_or_default();
            fs::write(self.file("base.json"), text).map_err(AgentError::io("remembering the push"))?;
        }
        Ok(())
    }
}
