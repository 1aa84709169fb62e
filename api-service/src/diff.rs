//! The differences between two versions.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use kkartifact_model::VersionRef;
use kkartifact_model::api::version::{PathChange, PathDiff, VersionDiff};
use kkartifact_model::manifest::{Change, Entry, ManifestRoot, diff};
use kkartifact_service::content::Entries;
use kkartifact_service::http::extract::{Json, Query};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Content, Resources, lifecycle};
use kkartifact_store::VersionRow;
use serde::Deserialize;

/// How many differences are listed unless asked otherwise, and at the most.
const DEFAULT_ITEMS: usize = 1000;
const MAX_ITEMS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    from: VersionRef,
    to: VersionRef,
    limit: Option<usize>,
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    app: AuthorizedApp,
    Query(params): Query<Params>,
) -> ApiResult<Json<VersionDiff>> {
    let limit = params.limit.unwrap_or(DEFAULT_ITEMS);
    if limit > MAX_ITEMS {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 0 to {MAX_ITEMS}")));
    }
    let mut tx = resources.db.read().await?;
    let from = lifecycle::readable(&mut tx, &app, &params.from).await?;
    let to = lifecycle::readable(&mut tx, &app, &params.to).await?;
    tx.commit().await?;
    match compare(&resources.content, &from, &to, limit).await {
        Ok(found) => Ok(Json(found)),
        Err(error) => Err(lifecycle::explain(&resources.db, &[from, to], error).await),
    }
}

async fn compare(
    content: &Content,
    from: &VersionRow,
    to: &VersionRow,
    limit: usize,
) -> ApiResult<VersionDiff> {
    let old = content.root(from.app_id, from.manifest_root).await?;
    let new = content.root(to.app_id, to.manifest_root).await?;
    let shared = Arc::new(shared_blocks(&old, &new));
    let old = content.entries(from.app_id, old).without_blocks(shared.clone());
    let new = content.entries(to.app_id, new).without_blocks(shared);
    let start = VersionDiff {
        from: from.name.clone(),
        to: to.name.clone(),
        added: 0,
        removed: 0,
        changed: 0,
        items: Vec::new(),
        truncated: false,
    };
    let counted = tokio::task::spawn_blocking(move || count(start, old, new, limit)).await;
    counted.map_err(ApiError::internal)?
}

/// Blocks that both have: they hold the same entries on both sides.
fn shared_blocks(old: &ManifestRoot, new: &ManifestRoot) -> HashSet<kkartifact_model::ChunkId> {
    let ids = |root: &ManifestRoot| root.blocks.iter().map(|block| block.id).collect::<HashSet<_>>();
    ids(old).intersection(&ids(new)).copied().collect()
}

fn count(mut result: VersionDiff, old: Entries, new: Entries, limit: usize) -> ApiResult<VersionDiff> {
    let size = |entry: &Entry| entry.file().map(|file| file.size);
    for change in diff(old, new) {
        let (entry, change, old_size, new_size) = match change? {
            Change::Added(new) => {
                result.added += 1;
                let size = size(&new);
                (new, PathChange::Added, None, size)
            }
            Change::Removed(old) => {
                result.removed += 1;
                let size = size(&old);
                (old, PathChange::Removed, size, None)
            }
            Change::Changed { old, new } => {
                result.changed += 1;
                let (before, after) = (size(&old), size(&new));
                (new, PathChange::Changed, before, after)
            }
        };
        if result.items.len() < limit {
            result.items.push(PathDiff { path: entry.path.into(), change, old_size, new_size });
        } else {
            result.truncated = true;
        }
    }
    Ok(result)
}
