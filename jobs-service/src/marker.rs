//! Writes the marker that says in storage whether a version is there.

use kkartifact_model::api::version::VersionState;
use kkartifact_model::meta::{FORMAT, MarkerState, VersionMarker};
use kkartifact_service::{ApiError, ApiResult, Resources};
use kkartifact_store::VersionId;

/// Writes what is true now, under the version's revision: done twice or late, it is still right.
pub(crate) async fn write(resources: &Resources, version: VersionId) -> ApiResult<()> {
    let mut tx = resources.db.read().await?;
    let row = tx.version(version).await?;
    let row = row.ok_or_else(|| ApiError::internal(format!("version {} has no row", version.0)))?;
    tx.commit().await?;
    let state = match row.state {
        VersionState::Published | VersionState::Quarantined => MarkerState::Published,
        VersionState::Archived => MarkerState::Archived,
        VersionState::Deleted | VersionState::Purged => MarkerState::Deleted,
    };
    let marker = VersionMarker {
        format: FORMAT,
        project: row.project,
        app: row.app,
        version: row.name,
        state,
        revision: row.revision,
        meta: row.meta_digest,
    };
    Ok(resources.blob.put_marker(&marker).await?)
}
