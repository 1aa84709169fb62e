//! Getting a version's manifest: told by the one in place where the server knows it, else whole.

use std::fs;

use kkartifact_model::api::version::Version;
use kkartifact_model::manifest::diff::apply;
use kkartifact_model::manifest::{Malformed, Record};
use tokio::sync::mpsc;

use super::state::{State, Target};
use crate::client::{Attempt, ManifestStream, Patience, VersionPath, is_base_refused};
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::{ManifestFile, ManifestWriter};
use crate::push::crashed;

/// How many records may wait for the thread that writes them.
const QUEUE: usize = 1024;
/// The longest chunk list that a delta may make: that of the largest file.
const MAX_CHUNKS: usize = 4 << 20;

/// The manifest of a version, from the state beside the target or from the server. What the server sends is
/// checked like any stranger's: order, paths, links, and in the end its digests.
pub(super) async fn manifest(
    agent: &Agent,
    target: &Target,
    state: Option<&State>,
    version: &Version,
) -> Result<ManifestFile> {
    if let Some(manifest) = target.manifest(&version.manifest_digest) {
        return Ok(manifest);
    }
    let path = VersionPath {
        project: version.project.clone(),
        app: version.app.clone(),
        version: version.version.clone(),
    };
    let mut base = state.and_then(|state| {
        let name = state.current.version.clone().filter(|_| state.server_url == agent.config.server_url)?;
        Some((name, target.manifest(&state.current.manifest_digest)?))
    });
    let mut patience = Patience::default();
    loop {
        match once(agent, target, &path, base.clone()).await {
            Ok(manifest) => match keep(target, &manifest, version) {
                // The same content may be cut into chunks in another way: then changes don't tell it.
                Err(_) if base.is_some() => base = None,
                kept => return kept,
            },
            Err(attempt) if base.is_some() && is_base_refused(&attempt) => base = None,
            Err(attempt) => patience.wait(attempt).await?,
        }
    }
}

async fn once(
    agent: &Agent,
    target: &Target,
    path: &VersionPath,
    base: Option<(kkartifact_model::VersionName, ManifestFile)>,
) -> Result<ManifestFile, Attempt> {
    let told_by = base.as_ref().map(|(name, manifest)| (name, &manifest.root().manifest_digest));
    let mut stream = agent.client.manifest(path, told_by).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let file = target.file("manifest.new");
    let writing =
        tokio::task::spawn_blocking(move || write(&file, base.map(|(_, manifest)| manifest), receiver));
    let read = read(&mut stream, &sender).await;
    drop(sender);
    let written = writing.await.map_err(|error| Attempt::Final(crashed(&error)))?;
    // A stream that broke off explains whatever the writer says.
    read?;
    written.map_err(Attempt::Final)
}

async fn read(stream: &mut ManifestStream, records: &mpsc::Sender<Record>) -> Result<(), Attempt> {
    while let Some(record) = stream.next_record().await? {
        if records.send(record).await.is_err() {
            // The writer has stopped, and says why.
            return Ok(());
        }
    }
    Ok(())
}

fn write(
    file: &std::path::Path,
    base: Option<ManifestFile>,
    mut records: mpsc::Receiver<Record>,
) -> Result<ManifestFile> {
    let mut writer = ManifestWriter::create(file)?;
    let records = std::iter::from_fn(move || records.blocking_recv().map(Ok));
    if let Some(base) = base {
        for applied in apply(base.entries(), records, MAX_CHUNKS) {
            writer.push(&applied?.entry)?;
        }
    } else {
        for record in records {
            let record: Result<Record> = record;
            let Record::Put(entry) = record? else { return Err(Malformed("a change without a base").into()) };
            writer.push(&entry)?;
        }
    }
    writer.finish()
}

/// Keeps a manifest under its digest, if it is the version's.
fn keep(target: &Target, manifest: &ManifestFile, version: &Version) -> Result<ManifestFile> {
    let root = manifest.root();
    if (root.tree_digest, root.manifest_digest) != (version.tree_digest, version.manifest_digest) {
        let message = format!("the server sent another manifest than that of version {}", version.version);
        return Err(AgentError::new(Kind::Invalid, message));
    }
    let path = target.manifest_path(&version.manifest_digest);
    fs::rename(manifest.path(), &path).map_err(AgentError::io("keeping the manifest"))?;
    ManifestFile::open(&path)
}
