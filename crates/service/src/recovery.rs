//! After a crash: packs that are whole in storage but have no rows yet get them, so that what was received
//! need not be sent again.

use std::time::Duration;

use chrono::{DateTime, Utc};
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

/// Records packs without rows that were begun at least `min_age` ago; how many there were. Younger ones may be about
/// to be recorded by who has sealed them. One that can't be read is reported and left alone.
pub async fn adopt_packs(resources: &Resources, min_age: Duration) -> ApiResult<u32> {
    let mut adopted = 0;
    for part in 0..=u8::MAX {
        adopted += adopt_part(resources, part, min_age).await?;
    }
    Ok(adopted)
}

/// The same for one of the 256 parts of the store.
pub async fn adopt_part(resources: &Resources, part: u8, min_age: Duration) -> ApiResult<u32> {
    let mut adopted = 0;
    for key in unrecorded(resources, part, min_age).await? {
        match adopt(resources, key).await {
            Ok(true) => adopted += 1,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(pack = %key, %error, cause = error.cause, "can't adopt a pack; left alone");
            }
        }
    }
    if adopted > 0 {
        tracing::info!(adopted, part, "recorded packs that a crash had left without rows");
    }
    Ok(adopted)
}

/// The packs of a part that have no rows and are old enough.
async fn unrecorded(resources: &Resources, part: u8, min_age: Duration) -> ApiResult<Vec<Uuid>> {
    let now = resources.clock.now();
    let mut unrecorded = Vec::new();
    let keys = resources.blob.list_packs(part).await?;
    let mut tx = resources.db.read().await?;
    for key in keys {
        if is_as_old(key, min_age, now) && tx.find_pack(key).await?.is_none() {
            unrecorded.push(key);
        }
    }
    tx.commit().await?;
    Ok(unrecorded)
}

/// Whether a pack was begun at least `min_age` ago, as its name tells. Other processes' clocks may be ahead of this one.
fn is_as_old(key: Uuid, min_age: Duration, now: DateTime<Utc>) -> bool {
    let begun = key.get_timestamp().and_then(|time| i64::try_from(time.to_unix().0).ok());
    let begun = begun.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    min_age.is_zero() || begun.is_none_or(|begun| (now - begun).to_std().is_ok_and(|age| age >= min_age))
}

/// Records a pack; false if there is no such app, or somebody else was faster and has collected it.
async fn adopt(resources: &Resources, key: Uuid) -> ApiResult<bool> {
    let (footer, size) = resources.blob.read_footer(key).await?;
    let mut tx = resources.db.begin().await?;
    let Some(app) = tx.find_app(&footer.owner.project, &footer.owner.app).await? else {
        tracing::warn!(pack = %key, "a pack of an app that is not there; left alone");
        return Ok(false);
    };
    let chunks = pack_rows(&footer.entries);
    let pack = NewPack {
        key,
        element: resources.element,
        project: app.project_id,
        app: app.id,
        size,
        chunks: &chunks,
    };
    // Whoever removes a pack removes its object before its row. So if there is no row but this one and the object is
    // still there, it was never recorded before.
    let recorded = tx.insert_pack(&pack, resources.clock.now()).await?.is_some();
    if !recorded || !resources.blob.has_pack(key).await? {
        return Ok(false);
    }
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_pack_stands_in_its_name() {
        let begun = 1_700_000_000i64;
        let key = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, begun.unsigned_abs(), 0));
        let after = |seconds| DateTime::from_timestamp(begun + seconds, 0).unwrap();
        let hour = Duration::from_hours(1);
        assert!(!is_as_old(key, hour, after(3599)) && is_as_old(key, hour, after(3600)));
        assert!(!is_as_old(key, hour, after(-60)), "another clock is ahead");
        assert!(is_as_old(key, Duration::ZERO, after(-60)), "at a start nothing is too young");
        assert!(is_as_old(Uuid::new_v4(), hour, after(0)), "not a name of ours");
    }
}
