//! What has been counted.

use std::collections::BTreeMap;
use std::fmt;

use kkartifact_model::failpoint;
use serde_json::Value;

/// What a collection has done, as its job tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) purged: u64,
    pub(crate) claimed: u64,
    pub(crate) refused_by_pin: u64,
    pub(crate) compacted: u64,
    pub(crate) removed: u64,
    pub(crate) freed_bytes: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// Reads the result or the progress of a job.
    pub(crate) fn of(json: &Value) -> Self {
        let number = |key: &str| json[key].as_u64().unwrap_or(0);
        Self {
            purged: number("purged"),
            claimed: number("claimed"),
            refused_by_pin: number("refused_by_pin"),
            compacted: number("compacted"),
            removed: number("removed"),
            freed_bytes: number("freed_bytes"),
            skipped: number("skipped"),
        }
    }

    fn add(&mut self, other: Self) {
        self.purged += other.purged;
        self.claimed += other.claimed;
        self.refused_by_pin += other.refused_by_pin;
        self.compacted += other.compacted;
        self.removed += other.removed;
        self.freed_bytes += other.freed_bytes;
        self.skipped += other.skipped;
    }
}

/// Everything that has been counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    pub(crate) pushes: u64,
    /// Pushes that were tried again because the server was away.
    pub(crate) pushes_again: u64,
    pub(crate) pulls: u64,
    pub(crate) pulls_again: u64,
    /// Pulls of versions that were deleted meanwhile, which the server said.
    pub(crate) pulls_of_deleted: u64,
    pub(crate) deletes: u64,
    /// Deleted versions that came back by `restore`.
    pub(crate) restores: u64,
    /// Deleted versions that came back by a push of the same content.
    pub(crate) brought_back: u64,
    /// Versions that retention has deleted.
    pub(crate) retained: u64,
    /// Uploads that were open during a whole collection, and then finished.
    pub(crate) drafts: u64,
    /// Reads during which all that they had still to read was moved to other packs.
    pub(crate) reads_over_compaction: u64,
    /// Reads that were cut by a kill.
    pub(crate) reads_cut: u64,
    pub(crate) collections: u64,
    pub(crate) counts: Counts,
    /// Kills by the place where the server died.
    pub(crate) kills: BTreeMap<String, u64>,
    /// Places where it should have died and which it did not come to.
    pub(crate) missed: Vec<String>,
}

impl Tally {
    /// Adds what a collection has done.
    pub(crate) fn collected(&mut self, counts: Counts) {
        self.collections += 1;
        self.counts.add(counts);
    }

    /// Adds what a collection had done that was called off.
    pub(crate) fn collected_in_part(&mut self, counts: Counts) {
        self.counts.add(counts);
    }

    /// Fails unless everything has happened that the soak is about.
    pub(crate) fn check(&self) {
        let Self { counts, missed, .. } = self;
        assert!(counts.purged > 0, "no version was purged");
        assert!(counts.claimed > 0 && counts.removed > 0, "no pack was collected");
        assert!(counts.compacted > 0, "no pack was compacted");
        assert!(counts.freed_bytes > 0, "nothing was freed");
        assert!(counts.refused_by_pin >= 1, "no pack was refused by its pin");
        assert_eq!(counts.skipped, 0, "packs or versions were skipped");
        assert!(self.reads_over_compaction >= 1, "nothing was compacted under a running read");
        assert!(self.drafts >= 1, "no upload was open during a collection");
        assert!(self.retained > 0, "retention has deleted nothing");
        for place in failpoint::COLLECT {
            assert!(self.kills.contains_key(*place), "the server never died at {place}; missed: {missed:?}");
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, .. } = self;
        writeln!(f, "rounds                    {}", self.rounds)?;
        writeln!(f, "pushes                    {} ({} tries more)", self.pushes, self.pushes_again)?;
        writeln!(
            f,
            "pulls                     {} ({} tries more; {} of what was deleted meanwhile)",
            self.pulls, self.pulls_again, self.pulls_of_deleted
        )?;
        writeln!(f, "deletes                   {} by hand, {} by retention", self.deletes, self.retained)?;
        writeln!(f, "brought back              {} restored, {} pushed", self.restores, self.brought_back)?;
        let kills: Vec<_> = self.kills.iter().map(|(place, times)| format!("{times} × {place}")).collect();
        writeln!(f, "kills                     {}: {}", self.kills.values().sum::<u64>(), kills.join(", "))?;
        writeln!(f, "places not reached        {}", self.missed.join(", "))?;
        writeln!(f, "collections               {}", self.collections)?;
        writeln!(f, "versions purged           {}", counts.purged)?;
        writeln!(f, "packs collected           {} claimed, {} removed", counts.claimed, counts.removed)?;
        writeln!(f, "packs compacted           {}", counts.compacted)?;
        writeln!(
            f,
            "refused by a pin          {} ({} uploads left open)",
            counts.refused_by_pin, self.drafts
        )?;
        writeln!(
            f,
            "reads over a compaction   {} ({} cut by kills)",
            self.reads_over_compaction, self.reads_cut
        )?;
        writeln!(f, "skipped                   {}", counts.skipped)?;
        write!(f, "freed bytes               {}", counts.freed_bytes)
    }
}
