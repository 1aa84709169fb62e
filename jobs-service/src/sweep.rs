//! Closes uploads that nobody has used for too long. What they held can be collected then.

use kkartifact_model::api::upload::UploadState;
use serde_json::json;

use crate::attempt::{Attempt, Outcome};

/// How many uploads are closed in one transaction.
const BATCH: u32 = 100;

pub(crate) async fn uploads(attempt: &Attempt) -> Outcome {
    let mut swept = 0;
    loop {
        let mut tx = attempt.begin().await?;
        let expired = tx.expired_uploads(attempt.now(), BATCH).await?;
        for upload in &expired {
            tx.close_upload(*upload, UploadState::Expired, None).await?;
        }
        tx.commit().await?;
        swept += expired.len();
        if expired.len() < BATCH as usize {
            return Ok(Some(json!({ "closed": swept })));
        }
        attempt.progress(json!({ "closed": swept })).await?;
    }
}
