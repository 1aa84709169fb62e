//! Sets of chunk references.
//!
//! A chunk reference is the n-th chunk that a manifest's entries mention, counted from 0 in path order and
//! including repetitions. Both sides can count, so "which are missing" is a bit per reference instead of a digest.

use super::Malformed;
use super::varint::{Cursor, put};

/// A set of chunk references of one manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefSet {
    words: Vec<u64>,
    len: u64,
}

impl RefSet {
    /// The empty set among `len` references.
    pub fn new(len: u64) -> Self {
        Self { words: vec![0; usize::try_from(len.div_ceil(64)).unwrap_or(usize::MAX)], len }
    }

    /// Adds one more reference behind the last, in the set or not.
    pub fn push(&mut self, member: bool) {
        if self.len.is_multiple_of(64) {
            self.words.push(0);
        }
        self.len += 1;
        if member {
            self.insert(self.len - 1);
        }
    }

    /// How many references there are, in the set or not.
    pub fn universe(&self) -> u64 {
        self.len
    }

    /// How many are in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether none is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether the reference is in the set; false beyond the last.
    pub fn contains(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// The part of the set in `start..end`.
    #[must_use]
    pub fn within(&self, start: u64, end: u64) -> Self {
        let mut part = Self::new(self.len);
        for (first, count) in self.runs_from(start) {
            if first >= end {
                break;
            }
            (first..(first + count).min(end)).for_each(|index| part.insert(index));
        }
        part
    }

    /// Adds a reference; nothing beyond the last.
    pub fn insert(&mut self, index: u64) {
        if index < self.len
            && let Some(word) = usize::try_from(index / 64).ok().and_then(|at| self.words.get_mut(at))
        {
            *word |= 1 << (index % 64);
        }
    }

    /// Takes a reference out.
    pub fn remove(&mut self, index: u64) {
        if let Some(word) = usize::try_from(index / 64).ok().and_then(|at| self.words.get_mut(at)) {
            *word &= !(1 << (index % 64));
        }
    }

    /// Runs of neighbours in the set: (first, count), ascending.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs_from(0)
    }

    /// The same, from an index on.
    pub fn runs_from(&self, from: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            let start = self.next(at, true)?;
            at = self.next(start, false).unwrap_or(self.len);
            Some((start, at - start))
        })
    }

    /// The first index from `from` on whose membership is `member`.
    fn next(&self, from: u64, member: bool) -> Option<u64> {
        let mut at = from;
        while at < self.len {
            let word = self.words[usize::try_from(at / 64).ok()?];
            let word = if member { word } else { !word } >> (at % 64);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros())).filter(|at| *at < self.len);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The binary form: pairs of varints, how many to skip and how many to take.
    pub fn encode(&self) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        for (start, count) in self.runs() {
            put(&mut out, start - at);
            put(&mut out, count);
            at = start + count;
        }
        out
    }

    /// Reads the binary form of a set among `len` references.
    pub fn decode(bytes: &[u8], len: u64) -> Result<Self, Malformed> {
        let (mut set, mut cursor, mut at) = (Self::new(len), Cursor(bytes), 0u64);
        while !cursor.is_empty() {
            let (skip, take) = (cursor.varint()?, cursor.varint()?);
            let start = at.checked_add(skip);
            let end = start.and_then(|start| start.checked_add(take)).filter(|end| *end <= len);
            let (Some(start), Some(end)) = (start, end) else {
                return Err(Malformed("a chunk reference beyond the last"));
            };
            (start..end).for_each(|index| set.insert(index));
            at = end;
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_round_trip() {
        for len in [0, 1, 63, 64, 65, 1000] {
            for pick in [|_| true, |_| false, |i| i % 3 == 0, |i| i < 64, |i: u64| i.is_multiple_of(64)] {
                let mut set = RefSet::new(len);
                (0..len).filter(|i| pick(*i)).for_each(|i| set.insert(i));
                assert_eq!(RefSet::decode(&set.encode(), len).unwrap(), set);
                let flat: Vec<_> = set.runs().flat_map(|(start, count)| start..start + count).collect();
                assert_eq!(flat, (0..len).filter(|i| pick(*i)).collect::<Vec<_>>());
                assert_eq!(set.count(), flat.len() as u64);
                let mut pushed = RefSet::default();
                (0..len).for_each(|i| pushed.push(pick(i)));
                assert_eq!(pushed, set);
                let middle = set.within(len / 3, len / 2);
                assert!((0..len).all(|i| middle.contains(i) == (pick(i) && (len / 3..len / 2).contains(&i))));
            }
        }
    }

    #[test]
    fn bounds_hold() {
        let mut set = RefSet::new(3);
        set.insert(3);
        set.insert(u64::MAX);
        assert!(set.is_empty() && !set.contains(3) && !set.contains(u64::MAX));
        assert!(RefSet::decode(&[0, 4], 3).is_err());
        assert!(RefSet::decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1], 3).is_err());
        assert!(RefSet::decode(&[0], 3).is_err());
    }
}
