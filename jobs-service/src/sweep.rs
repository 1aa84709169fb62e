//! Closes uploads that nobody has used for too long. What they held can be collected then.

use kkartifact_model::api::upload::UploadState;
use kkartifact_service::{ApiResult, Resources};

/// How many uploads are closed in one transaction.
const BATCH: u32 = 100;

pub(crate) async fn uploads(resources: &Resources) -> ApiResult<()> {
    let mut swept = 0;
    loop {
        let mut tx = resources.db.begin().await?;
        let expired = tx.expired_uploads(resources.clock.now(), BATCH).await?;
        for upload in &expired {
            tx.close_upload(*upload, UploadState::Expired, None).await?;
        }
        tx.commit().await?;
        swept += expired.len();
        if expired.len() < BATCH as usize {
            break;
        }
    }
    if swept > 0 {
        tracing::info!(swept, "closed uploads that nobody used");
    }
    Ok(())
}
