//! Chaining rows, and letting go of old ones.

use chrono::TimeDelta;
use kkartifact_store::{Actor, NewAudit, Outcome, SealRow, StartRow, Tx};

use super::chain::{Head, Meaning, Place, Signer, link};
use crate::error::{ApiError, ApiResult};
use crate::resources::Resources;

/// How many rows are chained in one transaction.
const BATCH: u32 = 500;
/// How many transactions there are before the end is signed.
const ROUNDS: usize = 50;
/// How many rows retention removes in one transaction.
const CUT: i64 = 10_000;

/// Chains all rows that are not chained yet, and signs where the chain ends; how many there were.
pub async fn seal(resources: &Resources) -> ApiResult<usize> {
    let signer = Signer::derive(&resources.secret_key)?;
    let mut sealed = 0;
    // While rows come faster than they are chained, the end is signed all the same.
    for _ in 0..ROUNDS {
        let mut tx = resources.db.read().await?;
        let waiting = !tx.unsealed_audit(1).await?.is_empty();
        tx.commit().await?;
        if !waiting {
            break;
        }
        let mut tx = resources.db.begin().await?;
        tx.lock_audit_chain().await?;
        let rows = tx.unsealed_audit(BATCH).await?;
        let mut place = end(&mut tx, &signer).await?;
        for row in &rows {
            let seq = place.seq + 1;
            let hash = link(&place.hash, seq, row);
            tx.insert_seal(&SealRow { seq, audit_id: row.id, hash: hash.clone() }).await?;
            place = Place { seq, hash };
        }
        tx.commit().await?;
        sealed += rows.len();
    }
    sign_end(resources, &signer).await?;
    Ok(sealed)
}

/// Where the chain ends.
async fn end(tx: &mut Tx, signer: &Signer) -> ApiResult<Place> {
    match tx.last_seal().await? {
        Some(row) => Ok(row.into()),
        None => start(tx, signer).await,
    }
}

/// Where the chain begins: at its origin, or where retention signed that it does.
pub(super) async fn start(tx: &mut Tx, signer: &Signer) -> ApiResult<Place> {
    let Some(StartRow { seq, hash, signature }) = tx.audit_start().await? else { return Ok(Place::origin()) };
    let place = Place { seq, hash };
    if signer.verify(&place, Meaning::Start, &signature) {
        Ok(place)
    } else {
        Err(ApiError::internal("the start of the audit chain is not signed by this server"))
    }
}

/// Whether the chain goes through a place.
async fn has(tx: &mut Tx, place: &Place, signer: &Signer) -> ApiResult<bool> {
    let link = tx.seals(place.seq - 1, 1).await?.pop().map(Place::from);
    Ok(link.as_ref() == Some(place) || start(tx, signer).await? == *place)
}

/// Puts the signed end into the storage, if it is not there.
async fn sign_end(resources: &Resources, signer: &Signer) -> ApiResult<()> {
    let known = head(resources, signer).await?.map(|(place, _)| place);
    let mut tx = resources.db.read().await?;
    let end = end(&mut tx, signer).await?;
    let goes_on = match &known {
        Some(known) => has(&mut tx, known, signer).await?,
        None => true,
    };
    tx.commit().await?;
    if !goes_on {
        // The signature that is there proves it: another one would take the proof away.
        return Err(ApiError::internal(
            "the audit log is not the one whose end was signed; 'kkartifact audit verify' says more",
        ));
    }
    if known.is_some_and(|known| known.seq >= end.seq) {
        return Ok(());
    }
    let head = Head::sign(&end, resources.clock.now(), signer);
    let text = serde_json::to_vec(&head).map_err(ApiError::internal)?;
    resources.blob.put_audit_head(text).await?;
    // Logs that are shipped elsewhere are one more place that nobody can turn back.
    tracing::info!(seq = head.seq, hash = head.hash, signature = head.signature, "sealed the audit log");
    Ok(())
}

/// The signed end in the storage.
pub(super) async fn head(resources: &Resources, signer: &Signer) -> ApiResult<Option<(Place, Head)>> {
    let Some(bytes) = resources.blob.get_audit_head().await? else { return Ok(None) };
    let head: Option<Head> = serde_json::from_slice(&bytes).ok();
    Ok(head.and_then(|head| Some((head.place(signer)?, head))))
}

/// Removes rows that are older than the configuration keeps, and signs where the chain begins then; how many.
pub async fn retain(resources: &Resources) -> ApiResult<u64> {
    let days = resources.config.audit.keep_days;
    if days == 0 {
        return Ok(0);
    }
    let before = resources.clock.now() - TimeDelta::days(days.into());
    let signer = Signer::derive(&resources.secret_key)?;
    // The signed end must not be among what goes.
    seal(resources).await?;
    let mut removed = 0;
    loop {
        let mut tx = resources.db.begin().await?;
        tx.lock_audit_chain().await?;
        let first = start(&mut tx, &signer).await?.seq;
        let Some(last) = tx.seal_before(before).await?.filter(|seal| seal.seq > first) else { break };
        let seq = last.seq.min(first + CUT);
        let seal = tx.seals(seq - 1, 1).await?.pop();
        let place: Place = seal.ok_or_else(|| ApiError::internal("the audit chain has a gap"))?.into();
        let signature = signer.sign(&place, Meaning::Start);
        let now = resources.clock.now();
        let start = StartRow { seq: place.seq, hash: place.hash, signature };
        let rows = tx.cut_audit(&start, now).await?;
        let row = NewAudit {
            action: "audit.retain",
            detail: serde_json::json!({ "rows": rows, "older_than_days": days }),
            ..NewAudit::default()
        };
        tx.audit(&Actor::system("retention", resources.auth.audit_key()), Outcome::Done, &row, now).await?;
        tx.commit().await?;
        removed += rows;
    }
    Ok(removed)
}
