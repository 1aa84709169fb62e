//! Packs that were claimed long enough ago go: the object first, then its row. Claimed for ever, they can't be needed
//! again; a row whose object is gone already is found by the next run.

use kkartifact_model::failpoint;
use kkartifact_store::{ClaimedPack, PackId};

use super::{PAGE, Run, bad_row, count_packs};
use crate::attempt::Failure;

pub(super) async fn run(run: &mut Run<'_>) -> Result<(), Failure> {
    let claimed = run.minutes_ago(run.gc().delay_minutes);
    let mut after = PackId(0);
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let page = tx.claimed_packs(claimed, after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        for pack in &page {
            one(run, pack).await?;
        }
        run.progress("remove").await?;
    }
}

async fn one(run: &mut Run<'_>, pack: &ClaimedPack) -> Result<(), Failure> {
    if pack.needed {
        return run.skip_pack(pack.id, "it was claimed, and a version needs it all the same").await;
    }
    if let Err(error) = run.attempt.resources.blob.remove_pack(pack.key).await {
        return run.skip_pack(pack.id, &error.to_string()).await;
    }
    failpoint::reach("gc.object-removed");

    let mut tx = run.attempt.begin().await?;
    let deleted = tx.delete_claimed_pack(pack.id).await;
    match deleted {
        Ok(true) => {
            run.counts.removed += 1;
            // By its row: an earlier attempt may have removed the object, and died before it could tell.
            run.counts.freed_bytes += pack.size;
            run.commit(tx, "remove").await?;
            failpoint::reach("gc.row-removed");
            count_packs("removed", 1);
            metrics::counter!("kkartifact_gc_freed_bytes_total").increment(pack.size);
        }
        Ok(false) => {}
        Err(error) => {
            drop(tx);
            let why = bad_row(error)?;
            run.skip_pack(pack.id, &why).await?;
        }
    }
    Ok(())
}
