//! Reading everything that published versions need, and comparing it with what they claim.

use kkartifact_model::FileDigest;
use kkartifact_model::api::version::VersionState;
use kkartifact_model::manifest::{Entry, TreeHasher};
use kkartifact_service::{ApiResult, Resources};
use kkartifact_store::{AppId, PageQuery, VersionFilter, VersionRow};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Versions that were read.
    pub versions: u64,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// How many chunks are read together.
const BATCH: usize = 32;

/// Reads every published version of every app. Slow and thorough; changes nothing.
pub async fn verify_all(resources: &Resources) -> ApiResult<Report> {
    let mut report = Report::default();
    for row in published(resources).await? {
        let (worker, name) = (resources.clone(), format!("{}/{} {}", row.project, row.app, row.name));
        let checked = tokio::task::spawn_blocking(move || verify_version(&worker, &row)).await;
        report.versions += 1;
        match checked {
            Ok(Ok(version)) => {
                report.files += version.files;
                report.bytes += version.bytes;
                report
                    .problems
                    .extend(version.problems.into_iter().map(|problem| format!("{name}: {problem}")));
            }
            Ok(Err(error)) => {
                let cause = error.cause.unwrap_or(error.message);
                report.problems.push(format!("{name}: {cause}"));
            }
            Err(error) => report.problems.push(format!("{name}: {error}")),
        }
    }
    Ok(report)
}

async fn published(resources: &Resources) -> ApiResult<Vec<VersionRow>> {
    let mut rows = Vec::new();
    let mut tx = resources.db.read().await?;
    let mut after = AppId(0);
    while let Some(app) = tx.next_app(after).await? {
        after = app.id;
        let mut page = PageQuery::first(500);
        loop {
            let versions = tx.list_versions(&app, &VersionFilter::default(), page).await?;
            for version in versions.items {
                if version.state == VersionState::Published {
                    rows.extend(tx.find_version(app.id, &version.version.into()).await?);
                }
            }
            match versions.next_cursor.as_deref().and_then(kkartifact_store::Cursor::decode) {
                Some(cursor) => page.after = cursor,
                None => break,
            }
        }
    }
    Ok(rows)
}

fn verify_version(resources: &Resources, row: &VersionRow) -> ApiResult<Report> {
    let handle = Handle::current();
    let meta = handle.block_on(resources.blob.get_meta(row.meta_digest))?;
    let root = handle.block_on(resources.content.root(row.app_id, row.manifest_root))?;
    let mut report = Report::default();
    let mut hasher = TreeHasher::default();
    for entry in resources.content.entries(row.app_id, root) {
        let entry = entry?;
        hasher.push(&entry);
        if let Some(file) = entry.file() {
            report.files += 1;
            report.bytes += file.size;
            let found = read(resources, &handle, row.app_id, &entry)?;
            if found != file.sha256 {
                report.problems.push(format!("{} has SHA-256 {found}, not {}", entry.path, file.sha256));
            }
        }
    }
    let tree = hasher.finish();
    for (what, digest) in [("its row", row.tree_digest), ("its meta.yaml", meta.tree_digest)] {
        if tree != digest {
            report.problems.push(format!("the tree digest is {tree}; {what} says {digest}"));
        }
    }
    Ok(report)
}

fn read(resources: &Resources, handle: &Handle, app: AppId, entry: &Entry) -> ApiResult<FileDigest> {
    let mut sha256 = Sha256::new();
    let chunks = entry.file().map(|file| file.chunks.as_slice()).unwrap_or_default();
    for batch in chunks.chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|chunk| chunk.id).collect();
        for bytes in handle.block_on(resources.content.read_chunks(app, &ids))? {
            sha256.update(&bytes);
        }
    }
    Ok(FileDigest::from_bytes(sha256.finalize().into()))
}
