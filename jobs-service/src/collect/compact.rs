//! Packs of which too much is dead are copied without it, and small ones are copied into larger ones.

use kkartifact_blob::SealedPack;
use kkartifact_model::failpoint;
use kkartifact_service::recovery::pack_rows;
use kkartifact_store::{
    AppId, AppRow, CompactablePack, CompactedPack, Compaction, DeadPlace, PackId, StoredBytes, Swap,
};

use super::copy::{Copied, copy};
use super::{PAGE, Run, bad_row, count, count_packs, selection};
use crate::attempt::Failure;

/// Packs of fewer bytes are small.
const SMALL: u64 = 8 << 20;
/// Small packs of an app are merged if there are as many.
const FEW: u32 = 4;

/// Whether there is room to copy anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Left,
    None,
}

/// What came of compacting some packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compacted {
    /// So many dead bytes are in claimed packs now: none if the packs stay as they are.
    Freed(u64),
    /// There was no room to copy anything.
    Full,
}

pub(super) async fn run(run: &mut Run<'_>) -> Result<(), Failure> {
    if shed(run).await? == Room::None || merge(run).await? == Room::None {
        // What is removed next makes room for the next run.
        run.attempt.note("storage is too full to compact anything; going on").await?;
    }
    Ok(())
}

/// Compacts packs until no more than the configured part of all stored bytes is dead. Those that are better than that
/// by themselves are left alone: without the others they are good enough.
async fn shed(run: &mut Run<'_>) -> Result<Room, Failure> {
    let (settled, percent) = (run.settled(), run.gc().dead_percent);
    let least = i64::from(percent).saturating_mul(10).max(1);
    let mut after = DeadPlace::START;
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let mut stored = tx.stored_bytes().await?;
        let page = tx.worst_packs(settled, least, after, PAGE).await?;
        tx.commit().await?;
        let Some(end) = page.last() else { return Ok(Room::Left) };
        after = end.place();
        for group in selection::by_dead_part(page) {
            if !selection::is_too_much(stored, percent) {
                return Ok(Room::Left);
            }
            let group = count::again(run, group, least).await?;
            let Compacted::Freed(freed) = compact(run, group, 1).await? else { return Ok(Room::None) };
            stored = StoredBytes {
                total: stored.total.saturating_sub(freed),
                dead: stored.dead.saturating_sub(freed),
            };
        }
    }
}

/// Merges the small packs of each app that has some.
async fn merge(run: &mut Run<'_>) -> Result<Room, Failure> {
    let settled = run.settled();
    let mut after = AppId(0);
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let apps = tx.apps_with_small_packs(settled, SMALL, FEW, after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = apps.last() else { return Ok(Room::Left) };
        after = *last;
        for app in apps {
            if merge_app(run, app).await? == Room::None {
                return Ok(Room::None);
            }
        }
    }
}

async fn merge_app(run: &mut Run<'_>, app: AppId) -> Result<Room, Failure> {
    let settled = run.settled();
    let mut after = PackId(0);
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let page = tx.small_packs(settled, SMALL, app, after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { return Ok(Room::Left) };
        after = last.id;
        for group in selection::in_order(page) {
            if group.len() >= FEW as usize && compact(run, group, 2).await? == Compacted::Full {
                return Ok(Room::None);
            }
        }
    }
}

/// Compacts packs of one app together, without those that can't be read, if as many as `least` are left.
async fn compact(
    run: &mut Run<'_>,
    mut packs: Vec<CompactablePack>,
    least: usize,
) -> Result<Compacted, Failure> {
    let nothing = Compacted::Freed(0);
    let Some(first) = packs.first() else { return Ok(nothing) };
    let mut tx = run.attempt.resources.db.read().await?;
    let app = match tx.app(first.app_id).await {
        Ok(app) => app,
        Err(error) => {
            let (pack, why) = (first.id, bad_row(error)?);
            run.skip_pack(pack, &format!("its app can't be read: {why}")).await?;
            return Ok(nothing);
        }
    };
    tx.commit().await?;
    let Some(app) = app else { return Ok(nothing) };
    while packs.len() >= least {
        run.progress("compact").await?;
        match copy(run, &app, &packs).await? {
            Copied::Sealed(sealed, old) => {
                if !swap(run, &app, &sealed, &old).await? {
                    break;
                }
                // Not all of them may have been copied.
                let dead = |pack: &CompactablePack| pack.size.saturating_sub(pack.live_bytes);
                let gone = packs.iter().filter(|pack| old.iter().any(|old| old.id == pack.id));
                return Ok(Compacted::Freed(gone.map(dead).sum()));
            }
            // They are claimed by the next run.
            Copied::Nothing => break,
            Copied::Unreadable(id, why) => {
                run.skip_pack(id, &why).await?;
                packs.retain(|pack| pack.id != id);
            }
            Copied::Full => return Ok(Compacted::Full),
        }
    }
    Ok(nothing)
}

/// Lets the new pack take the place of the old ones, unless something has come to rely on one of them in between;
/// whether it did.
async fn swap(
    run: &mut Run<'_>,
    app: &AppRow,
    sealed: &SealedPack,
    old: &[CompactedPack],
) -> Result<bool, Failure> {
    failpoint::reach("gc.compact-copied");
    let chunks = pack_rows(&sealed.entries);
    let new = Compaction {
        key: sealed.key,
        element: run.attempt.resources.element,
        project: app.project_id,
        app: app.id,
        size: sealed.size,
        chunks: &chunks,
        old,
    };
    let mut tx = run.attempt.begin().await?;
    let swapped = tx.swap_packs(&new, run.attempt.now()).await;
    if let Ok(Swap::Done(_)) = swapped {
        let packs = old.len() as u64;
        run.counts.compacted += packs;
        run.commit(tx, "compact").await?;
        failpoint::reach("gc.compact-swapped");
        count_packs("compacted", packs);
        return Ok(true);
    }
    drop(tx);
    let mut tx = run.attempt.begin().await?;
    tx.abandon_compaction(&new, run.attempt.now()).await?;
    tx.commit().await?;
    if let (Err(error), Some(pack)) = (swapped, old.first()) {
        let why = bad_row(error)?;
        run.skip_pack(pack.id, &format!("it can't be compacted: {why}")).await?;
    }
    Ok(false)
}
