//! Which packs are compacted, and which of them together.

use std::collections::HashMap;

use kkartifact_blob::{MAX_CHUNKS, TARGET_SIZE};
use kkartifact_store::{AppId, CompactablePack, MAX_COMPACTED, StoredBytes};

/// How many rows about what versions need are rewritten in one transaction.
const MAX_NEEDS: u64 = 20_000;

/// Packs of one app that become one.
#[derive(Debug, Default)]
struct Group {
    packs: Vec<CompactablePack>,
    live_bytes: u64,
    chunks: u64,
    needs: u64,
}

impl Group {
    /// Whether a pack fits. The numbers of chunks and of versions that need them bound the rows of the transaction in
    /// which the new pack takes the place of the others. A pack that is above a bound by itself goes alone.
    fn has_room_for(&self, pack: &CompactablePack) -> bool {
        self.packs.is_empty()
            || self.packs.len() < MAX_COMPACTED
                && self.live_bytes + pack.live_bytes <= TARGET_SIZE
                && self.chunks + u64::from(pack.chunk_count) <= MAX_CHUNKS as u64
                && self.needs + pack.versions <= MAX_NEEDS
    }

    fn push(&mut self, pack: CompactablePack) {
        self.live_bytes += pack.live_bytes;
        self.chunks += u64::from(pack.chunk_count);
        self.needs += pack.versions;
        self.packs.push(pack);
    }
}

/// Groups packs of which too much is dead, given the worst first. With the worst pack of a group go others of its app
/// that are at least half as bad: copying the rest would move much and free little.
pub(super) fn by_dead_part(packs: Vec<CompactablePack>) -> Vec<Vec<CompactablePack>> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: HashMap<AppId, usize> = HashMap::new();
    for pack in packs {
        let joins = |group: &Group| {
            group.has_room_for(&pack) && group.packs.first().is_some_and(|worst| pack.dead * 2 >= worst.dead)
        };
        let index = open.get(&pack.app_id).copied().filter(|index| groups.get(*index).is_some_and(joins));
        let index = index.unwrap_or_else(|| {
            groups.push(Group::default());
            groups.len() - 1
        });
        open.insert(pack.app_id, index);
        groups[index].push(pack);
    }
    groups.into_iter().map(|group| group.packs).collect()
}

/// Groups small packs of one app in their order.
pub(super) fn in_order(packs: Vec<CompactablePack>) -> Vec<Vec<CompactablePack>> {
    let mut groups: Vec<Group> = Vec::new();
    for pack in packs {
        if groups.last().is_none_or(|group| !group.has_room_for(&pack)) {
            groups.push(Group::default());
        }
        if let Some(group) = groups.last_mut() {
            group.push(pack);
        }
    }
    groups.into_iter().map(|group| group.packs).collect()
}

/// Whether more than so many percent of the stored bytes are dead.
pub(super) fn is_too_much(stored: StoredBytes, percent: u32) -> bool {
    stored.dead.saturating_mul(100) > stored.total.saturating_mul(percent.into())
}

#[cfg(test)]
mod tests {
    use kkartifact_store::PackId;
    use uuid::Uuid;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A pack of 64 MiB.
    fn pack(id: i64, app: i64, dead: i64) -> CompactablePack {
        let size = 64 * MIB;
        let live_bytes = size - size * dead.unsigned_abs() / 1000;
        CompactablePack {
            id: PackId(id),
            key: Uuid::nil(),
            app_id: AppId(app),
            size,
            live_bytes,
            chunk_count: 1500,
            dead,
            versions: 10,
        }
    }

    fn ids(groups: Vec<Vec<CompactablePack>>) -> Vec<Vec<i64>> {
        groups.into_iter().map(|group| group.into_iter().map(|pack| pack.id.0).collect()).collect()
    }

    #[test]
    fn the_worst_packs_of_an_app_go_together_up_to_the_target() {
        let packs = vec![pack(1, 7, 900), pack(2, 8, 800), pack(3, 7, 700), pack(4, 7, 600), pack(5, 8, 390)];
        // 0.1 + 0.3 + 0.4 of a pack fit into one; one that is less than half as bad does not go along.
        assert_eq!(ids(by_dead_part(packs)), [vec![1, 3, 4], vec![2], vec![5]]);
        let packs = vec![pack(1, 7, 600), pack(2, 7, 550), pack(3, 7, 500), pack(4, 7, 500)];
        assert_eq!(ids(by_dead_part(packs)), [vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn rows_of_one_transaction_are_bounded() {
        let many = |id| CompactablePack { chunk_count: 20_000, ..pack(id, 1, 900) };
        assert_eq!(ids(by_dead_part(vec![many(1), many(2)])), [[1], [2]]);
        let tiny = |id| CompactablePack { chunk_count: 1, live_bytes: 100, ..pack(id, 1, 0) };
        let groups = in_order((0..600).map(tiny).collect());
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_COMPACTED, MAX_COMPACTED, 88]);
        let wanted = |id| CompactablePack { versions: 8000, ..tiny(id) };
        let groups = [[0, 1].as_slice(), &[2, 3], &[4]];
        assert_eq!(ids(in_order((0..5).map(wanted).collect())), groups);
        assert_eq!(ids(by_dead_part((0..5).map(wanted).collect())), groups);
    }

    #[test]
    fn a_pack_above_every_bound_goes_alone() {
        let large = |id| CompactablePack { live_bytes: 9 << 30, chunk_count: 1 << 20, ..pack(id, 1, 300) };
        assert_eq!(ids(by_dead_part(vec![large(1), large(2)])), [[1], [2]]);
        assert_eq!(ids(in_order(vec![large(1), large(2)])), [[1], [2]]);
        let wanted = |id| CompactablePack { versions: 1 << 20, ..pack(id, 1, 900) };
        assert_eq!(ids(by_dead_part(vec![wanted(1), wanted(2), pack(3, 1, 900)])), [[1], [2], [3]]);
        assert!(ids(in_order(Vec::new())).concat().is_empty());
    }

    #[test]
    fn what_may_be_dead_is_a_part_of_everything() {
        let stored = |dead| StoredBytes { total: 1000, dead };
        assert!(!is_too_much(stored(100), 10) && is_too_much(stored(101), 10));
        assert!(!is_too_much(stored(0), 0) && is_too_much(stored(1), 0));
        assert!(!is_too_much(StoredBytes::default(), 10));
    }
}
