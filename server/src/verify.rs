//! Reading everything that published and archived versions need, and comparing it with what they claim.

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

impl Report {
    fn of_problem(problem: String) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }
}

/// How many chunks are read together.
const BATCH: usize = 32;

/// Reads every version of every app that is published, or archived and to be restored one day. Slow and thorough;
/// changes nothing.
pub async fn verify_all(resources: &Resources) -> ApiResult<Report> {
    let mut report = Report::default();
    for row in kept(resources).await? {
        let name = format!("{}/{} {}", row.project, row.app, row.name);
        let Some(version) = verify(resources, row).await? else { continue };
        report.versions += 1;
        report.files += version.files;
        report.bytes += version.bytes;
        report.problems.extend(version.problems.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    Ok(report)
}

/// Reads a version; `None` if it need not be whole any more. Beside a running server it may be deleted and lose its
/// bytes while it is read, and perhaps come back with another manifest: what was found wrong with it counts only if it
/// is still what it was.
async fn verify(resources: &Resources, mut row: VersionRow) -> ApiResult<Option<Report>> {
    loop {
        let (worker, before) = (resources.clone(), row.clone());
        let read = tokio::task::spawn_blocking(move || verify_version(&worker, &before)).await;
        let found = match read {
            Ok(Ok(report)) if report.problems.is_empty() => return Ok(Some(report)),
            Ok(Ok(report)) => report,
            Ok(Err(error)) => Report::of_problem(error.cause.unwrap_or(error.message)),
            Err(error) => Report::of_problem(error.to_string()),
        };
        let mut tx = resources.db.read().await?;
        let now = tx.version(row.id).await?.filter(is_kept);
        tx.commit().await?;
        match now {
            None => return Ok(None),
            Some(now) if now.revision == row.revision => return Ok(Some(found)),
            Some(now) => row = now,
        }
    }
}

/// Whether a version has to be whole.
fn is_kept(row: &VersionRow) -> bool {
    matches!(row.state, VersionState::Published | VersionState::Archived)
}

async fn kept(resources: &Resources) -> ApiResult<Vec<VersionRow>> {
    let mut rows = Vec::new();
    let mut tx = resources.db.read().await?;
    let mut after = AppId(0);
    while let Some(app) = tx.next_app(after).await? {
        after = app.id;
        for deleted in [false, true] {
            let filter = VersionFilter { deleted, ..VersionFilter::default() };
            let mut page = PageQuery::first(500);
            loop {
                let versions = tx.list_versions(&app, &filter, page).await?;
                for version in versions.items {
                    if matches!(version.state, VersionState::Published | VersionState::Archived) {
                        rows.extend(tx.find_version(app.id, &version.version.into()).await?);
                    }
                }
                match versions.next_cursor.as_deref().and_then(kkartifact_store::Cursor::decode) {
                    Some(cursor) => page.after = cursor,
                    None => break,
                }
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
