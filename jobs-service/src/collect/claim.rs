//! Packs that nothing needs are claimed: from then on nothing can come to need them.

use kkartifact_model::failpoint;
use kkartifact_store::{Claim, PackId};

use super::{PAGE, Run, bad_row, count_packs};
use crate::attempt::Failure;

pub(super) async fn run(run: &mut Run<'_>) -> Result<(), Failure> {
    let settled = run.settled();
    let mut after = PackId(0);
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let page = tx.unneeded_packs(settled, after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = *last;
        for pack in page {
            one(run, pack).await?;
        }
        run.progress("claim").await?;
    }
}

async fn one(run: &mut Run<'_>, pack: PackId) -> Result<(), Failure> {
    let mut tx = run.attempt.begin().await?;
    let claimed = tx.claim_pack(pack, run.attempt.now()).await;
    match claimed {
        Ok(Claim::Claimed) => {
            run.counts.claimed += 1;
            run.commit(tx, "claim").await?;
            failpoint::reach("gc.claimed");
            count_packs("claimed", 1);
        }
        Ok(Claim::Pinned) => {
            run.counts.refused_by_pin += 1;
            count_packs("pinned", 1);
        }
        // Since it was looked for, a version has come to need it, or another run has claimed it.
        Ok(Claim::Needed | Claim::Gone) => {}
        Err(error) => {
            drop(tx);
            let why = bad_row(error)?;
            run.skip_pack(pack, &why).await?;
        }
    }
    Ok(())
}
