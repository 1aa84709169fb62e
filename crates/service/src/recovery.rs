//! After a crash: packs that are whole in storage but have no rows yet get them, so that what was received
//! need not be sent again.

use kkartifact_blob::PackEntry;
use kkartifact_store::{NewChunk, NewPack};
use uuid::Uuid;

use crate::error::ApiResult;
use crate::resources::Resources;

/// The chunks of a pack as rows.
pub fn pack_rows(entries: &[PackEntry]) -> Vec<NewChunk> {
    let row = |e: &PackEntry| NewChunk {
        id: e.id,
        offset: e.offset,
        stored_len: e.stored_len,
        len: e.len,
        sha256: e.sha256,
    };
    entries.iter().map(row).collect()
}

/// Records packs without rows; how many there were. One that can't be read is reported and left alone.
pub async fn adopt_packs(resources: &Resources) -> ApiResult<u32> {
    let mut adopted = 0;
    for part in 0..=u8::MAX {
        for key in resources.blob.list_packs(part).await? {
            let mut tx = resources.db.read().await?;
            let known = tx.find_pack(key).await?.is_some();
            tx.commit().await?;
            if known {
                continue;
            }
            match adopt(resources, key).await {
                Ok(true) => adopted += 1,
                Ok(false) => tracing::warn!(pack = %key, "a pack of an app that is not there; left alone"),
                Err(error) => {
                    tracing::warn!(pack = %key, %error, cause = error.cause, "can't adopt a pack; left alone");
                }
            }
        }
    }
    if adopted > 0 {
        tracing::info!(adopted, "recorded packs that a crash had left without rows");
    }
    Ok(adopted)
}

async fn adopt(resources: &Resources, key: Uuid) -> ApiResult<bool> {
    let (footer, size) = resources.blob.read_footer(key).await?;
    let mut tx = resources.db.begin().await?;
    let Some(app) = tx.find_app(&footer.owner.project, &footer.owner.app).await? else { return Ok(false) };
    let chunks = pack_rows(&footer.entries);
    let pack = NewPack {
        key,
        element: resources.element,
        project: app.project_id,
        app: app.id,
        size,
        chunks: &chunks,
    };
    tx.insert_pack(&pack, resources.clock.now()).await?;
    tx.commit().await?;
    Ok(true)
}
