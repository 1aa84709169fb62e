//! `POST /upload/finish`: publishes, in one transaction, what has been verified.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Utc};
use http::StatusCode;
use kkartifact_model::api::upload::{UploadFinish, UploadState};
use kkartifact_model::api::version::{Version, VersionState};
use kkartifact_model::event::EventKind;
use kkartifact_model::manifest::{Entry, ManifestRoot, Mode, Node, Record, RecordReader};
use kkartifact_model::meta::{FORMAT, VersionMeta};
use kkartifact_model::{ChunkId, Code, TreePath, VersionRef, failpoint};
use kkartifact_service::http::extract::Json;
use kkartifact_service::lifecycle::{self, Happened};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources};
use kkartifact_store::{NewVersion, Tx, UploadRow, VersionId, VersionPack};
use uuid::Uuid;

use super::init::exists;
use super::manifest::{ManifestStore, not_announced};
use super::session::{closed, find};
use super::verify::{incomplete, verify};

pub(crate) async fn finish(
    State(resources): State<Resources>,
    caller: Caller,
    Json(finish): Json<UploadFinish>,
) -> ApiResult<(StatusCode, Json<Version>)> {
    // If the caller goes away, this goes on: finishing twice is safe, stopping half-way a waste.
    let work = tokio::spawn(async move {
        // Before the look at the upload: who waits for another call to finish it finds it finished.
        let _turn = resources.publishing.take().await?;
        let (upload, app) = match look(&resources, &caller, finish.upload_id).await? {
            Found::Finished(version) => return Ok((StatusCode::OK, Json(*version))),
            Found::Open(upload, app) => (*upload, app),
        };
        let published = match prepare(&resources, &caller, upload, app).await {
            Ok(draft) => publish(&resources, &caller, &draft).await,
            Err(error) => Err(error),
        };
        let (created, version) = match published {
            Ok(published) => published,
            // What it needed may be gone because another call was faster: then that one's version is the answer.
            Err(error) => match look(&resources, &caller, finish.upload_id).await {
                Ok(Found::Finished(version)) => (false, *version),
                _ => return Err(error),
            },
        };
        resources.jobs_queued.notify_waiters();
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        Ok((status, Json(version)))
    });
    work.await.map_err(ApiError::internal)?
}

/// How an upload stands that is to be finished.
enum Found {
    Finished(Box<Version>),
    Open(Box<UploadRow>, AuthorizedApp),
}

async fn look(resources: &Resources, caller: &Caller, id: Uuid) -> ApiResult<Found> {
    let mut tx = resources.db.read().await?;
    let (upload, app) = find(&mut tx, caller, id).await?;
    if let (UploadState::Finished, Some(id)) = (upload.state, upload.version_id) {
        return Ok(Found::Finished(Box::new(describe(&mut tx, id).await?)));
    }
    if upload.is_open(resources.clock.now()) {
        Ok(Found::Open(Box::new(upload), app))
    } else {
        Err(closed(&upload))
    }
}

async fn describe(tx: &mut Tx, id: VersionId) -> ApiResult<Version> {
    let row = tx.version(id).await?.ok_or_else(|| ApiError::internal("a version vanished"))?;
    Ok(tx.describe_version(row).await?)
}

/// An upload whose content is verified and durable, and whose document is written.
struct Draft {
    upload: UploadRow,
    app: AuthorizedApp,
    version: NewVersion,
    packs: Vec<VersionPack>,
    now: DateTime<Utc>,
}

async fn prepare(
    resources: &Resources,
    caller: &Caller,
    upload: UploadRow,
    app: AuthorizedApp,
) -> ApiResult<Draft> {
    let (root_id, root) = match upload.manifest_root() {
        Some(id) => (id, resources.content.root(app.id, id).await?),
        None => manifest_of_files(resources, &upload, &app).await?,
    };
    if let Some(announced) = upload.tree_digest().filter(|announced| *announced != root.tree_digest) {
        return Err(not_announced(announced, root.tree_digest));
    }
    let (worker, root_to_verify, app_id) = (resources.clone(), root.clone(), app.id);
    let packs = tokio::task::spawn_blocking(move || verify(&worker, app_id, root_id, &root_to_verify))
        .await
        .map_err(ApiError::internal)??;
    failpoint::reach("finish.verified");

    let now = resources.clock.now();
    let build = upload.build();
    let meta = VersionMeta {
        format: FORMAT,
        project: app.project.clone(),
        app: app.name.clone(),
        version: upload.version_name.clone(),
        git_commit: build.git_commit.clone(),
        build_time: build.build_time,
        builder: build.builder.clone(),
        created_at: now,
        tree_digest: root.tree_digest,
        manifest_digest: root.manifest_digest,
        manifest_root: root_id,
        entry_count: root.entries(),
        file_count: root.files,
        bytes: root.bytes,
    };
    let meta_digest = resources.blob.put_meta(&meta).await?;
    let version = NewVersion {
        app_id: app.id,
        name: meta.version,
        tree_digest: root.tree_digest,
        manifest_digest: root.manifest_digest,
        manifest_root: root_id,
        meta_digest,
        entry_count: meta.entry_count,
        file_count: meta.file_count,
        bytes: meta.bytes,
        build,
        created_by: caller.principal,
        created_by_name: caller.name.clone(),
    };
    Ok(Draft { upload, app, version, packs, now })
}

/// Makes the version visible, with everything that belongs to it, or nothing. Whether it is new, and it.
async fn publish(resources: &Resources, caller: &Caller, draft: &Draft) -> ApiResult<(bool, Version)> {
    let Draft { upload, app, version, packs, now } = draft;
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    // As they are now: reading what is to be published may have taken an hour.
    let caller = &resources.auth.again(&mut tx, caller, resources.clock.now()).await?;
    AuthorizedApp::load(&mut tx, caller, kkartifact_model::Permission::Push, &app.project, &app.name)
        .await?
        .require_active()?;
    let found = tx.find_version(app.id, &VersionRef::Name(version.name.clone())).await?;
    if found.as_ref().is_some_and(|row| row.tree_digest != version.tree_digest) {
        return Err(exists(&version.name));
    }
    let (created, id) = match found {
        None => (true, tx.insert_version(version, *now).await?),
        Some(row) if row.state == VersionState::Purged => {
            tx.revive_version(row.id, version, *now).await?;
            (true, row.id)
        }
        Some(row) if matches!(row.state, VersionState::Deleted | VersionState::Archived) => {
            lifecycle::restore(&mut tx, app, &row, &caller.actor(), *now).await?;
            (false, row.id)
        }
        Some(row) => (false, row.id),
    };
    if created {
        let ids: Vec<_> = packs.iter().map(|pack| pack.pack).collect();
        let gone = tx.lock_packs(&ids).await?;
        if !gone.is_empty() {
            return Err(incomplete(gone.len() as u64));
        }
        tx.insert_version_packs(id, packs).await?;
        record(&mut tx, caller, draft, id).await?;
    }
    if !tx.close_upload(upload.id, UploadState::Finished, Some(id)).await? {
        return Err(closed(upload));
    }
    let version = describe(&mut tx, id).await?;
    failpoint::reach("publish.before-commit");
    tx.commit().await?;
    failpoint::reach("publish.committed");
    if created {
        metrics::counter!("kkartifact_versions_published_total").increment(1);
    }
    Ok((created, version))
}

async fn record(tx: &mut Tx, caller: &Caller, draft: &Draft, id: VersionId) -> ApiResult<()> {
    let version = &draft.version;
    let agent = draft.upload.agent();
    let happened = Happened {
        app: &draft.app,
        version: (id, version.name.as_str()),
        kind: EventKind::Push,
        action: "version.publish",
        agent: agent.as_ref().map(|agent| (agent.id.as_str(), agent.host.as_str())),
        detail: serde_json::json!({
            "tree_digest": version.tree_digest, "files": version.file_count, "bytes": version.bytes,
            "git_commit": version.build.git_commit,
        }),
    };
    let actor = caller.actor();
    happened.record(tx, &actor, draft.now).await?;
    lifecycle::queue_marker(tx, &draft.app, id, &actor, draft.now).await
}

/// How many files of an upload are read together.
const FILES: u32 = 1000;

/// Makes the manifest of files that were put one by one, with the directories above them.
async fn manifest_of_files(
    resources: &Resources,
    upload: &UploadRow,
    app: &AuthorizedApp,
) -> ApiResult<(ChunkId, Arc<ManifestRoot>)> {
    let entries = entries_of_files(resources, upload.id).await?;
    let (resources, upload, app) = (resources.clone(), upload.clone(), app.clone());
    let stored = tokio::task::spawn_blocking(move || {
        let mut store = ManifestStore::new(&resources, app, &upload);
        entries.values().try_for_each(|entry| store.push(entry))?;
        store.finish()
    });
    let (id, root) = stored.await.map_err(ApiError::internal)??;
    Ok((id, Arc::new(root)))
}

async fn entries_of_files(resources: &Resources, upload: Uuid) -> ApiResult<BTreeMap<TreePath, Entry>> {
    let (mut entries, mut absent, mut after) = (BTreeMap::new(), BTreeSet::new(), String::new());
    let mut tx = resources.db.read().await?;
    loop {
        // At most `upload.put_files` in all.
        let files = tx.upload_files(upload, &after, FILES).await?;
        let Some(last) = files.last() else { break };
        last.path.as_str().clone_into(&mut after);
        for file in files {
            match file.record.as_deref().and_then(|record| RecordReader::new(record).next()) {
                Some(Ok(Record::Put(entry))) => drop(entries.insert(file.path, entry)),
                Some(_) => return Err(ApiError::internal("an upload's file has an unreadable record")),
                None => drop(absent.insert(file.path.to_string())),
            }
        }
    }
    if entries.is_empty() && absent.is_empty() {
        return Err(ApiError::new(Code::UploadIncomplete, "neither a manifest nor a file has been sent"));
    }
    if !absent.is_empty() {
        let some: Vec<_> = absent.iter().take(10).map(String::as_str).collect();
        let message = format!("{} announced files have not been put: {}", absent.len(), some.join(", "));
        return Err(ApiError::new(Code::UploadIncomplete, message));
    }
    add_directories(&mut entries)?;
    Ok(entries)
}

fn add_directories(entries: &mut BTreeMap<TreePath, Entry>) -> ApiResult<()> {
    let mut directories = BTreeSet::new();
    for path in entries.keys() {
        let mut rest = path.as_str();
        while let Some((parent, _)) = rest.rsplit_once('/') {
            directories.insert(parent.to_owned());
            rest = parent;
        }
    }
    for directory in directories {
        let path = TreePath::new(directory).map_err(ApiError::internal)?;
        if entries.contains_key(&path) {
            let message = format!("{path} is a file, and files were put below it");
            return Err(ApiError::new(Code::InvalidManifest, message));
        }
        let node = Node::Directory { mode: Mode::EXECUTABLE };
        entries.insert(path.clone(), Entry { path, node });
    }
    Ok(())
}
