//! How much of packs versions need. Reading each pack's footer also shows which ones can't be read.

use kkartifact_store::{CompactablePack, PackId};
use uuid::Uuid;

use super::{PAGE, Run, bad_row};
use crate::attempt::Failure;

/// Counts the packs of which something may have changed.
pub(super) async fn run(run: &mut Run<'_>) -> Result<(), Failure> {
    let mut after = PackId(0);
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let page = tx.uncounted_packs(after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        for pack in &page {
            one(run, pack.id, pack.key, pack.size).await?;
        }
        run.progress("count").await?;
    }
}

/// Counts again before much is copied in vain: the packs of which still at least `least` thousandths are dead. New
/// versions may have come to need what no old one did.
pub(super) async fn again(
    run: &mut Run<'_>,
    packs: Vec<CompactablePack>,
    least: i64,
) -> Result<Vec<CompactablePack>, Failure> {
    let mut still = Vec::with_capacity(packs.len());
    for pack in packs {
        let Some(live_bytes) = one(run, pack.id, pack.key, pack.size).await? else { continue };
        let dead = pack.size.saturating_sub(live_bytes).saturating_mul(1000) / pack.size.max(1);
        if i64::try_from(dead).is_ok_and(|dead| dead >= least) {
            still.push(CompactablePack { live_bytes, ..pack });
        }
    }
    Ok(still)
}

/// The live bytes of a pack, which are recorded; `None` if they can't be counted now.
async fn one(run: &mut Run<'_>, id: PackId, key: Uuid, size: u64) -> Result<Option<u64>, Failure> {
    let footer = match run.attempt.resources.blob.read_footer(key).await {
        Ok((footer, _)) => footer,
        Err(error) => {
            run.skip_pack(id, &error.to_string()).await?;
            return Ok(None);
        }
    };
    let stored_lens: Vec<_> = footer.entries.iter().map(|entry| entry.stored_len).collect();
    let mut tx = run.attempt.begin().await?;
    let counted = tx.count_live_bytes(id, size, &stored_lens).await;
    match counted {
        Ok(live_bytes) => {
            tx.commit().await?;
            Ok(live_bytes)
        }
        Err(error) => {
            drop(tx);
            let why = bad_row(error)?;
            run.skip_pack(id, &why).await?;
            Ok(None)
        }
    }
}
