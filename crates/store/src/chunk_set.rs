//! Which chunks of a pack: one bit per ordinal, as `version_pack` keeps them.

/// Chunks of one pack by their ordinals, which are their places in its footer. One bit each, lowest first, so its
/// size is an eighth of the largest ordinal: a few KiB for the largest pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkSet(Vec<u8>);

impl ChunkSet {
    /// Reads what [`ChunkSet::as_bytes`] gave.
    pub const fn from_bytes(bits: Vec<u8>) -> Self {
        Self(bits)
    }

    /// The bits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a chunk.
    pub fn insert(&mut self, ordinal: u32) {
        let byte = ordinal as usize / 8;
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        self.0[byte] |= 1u8 << (ordinal % 8);
    }

    /// Adds the chunks of another set.
    pub fn extend(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (byte, more) in self.0.iter_mut().zip(&other.0) {
            *byte |= more;
        }
    }

    /// Whether a chunk is in it.
    pub fn contains(&self, ordinal: u32) -> bool {
        self.0.get(ordinal as usize / 8).is_some_and(|byte| byte & (1u8 << (ordinal % 8)) != 0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The ordinals, lowest first.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> {
        (0u32..).step_by(8).zip(&self.0).flat_map(|(first, byte)| {
            (0u32..8).filter(move |bit| byte & (1u8 << *bit) != 0).map(move |bit| first + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ordinals: &[u32]) -> ChunkSet {
        let mut set = ChunkSet::default();
        for ordinal in ordinals {
            set.insert(*ordinal);
        }
        set
    }

    #[test]
    fn what_is_inserted_is_listed_in_order() {
        let found = set(&[32_768, 9, 0, 7, 8, 9]);
        assert_eq!(found.ordinals().collect::<Vec<_>>(), [0, 7, 8, 9, 32_768]);
        assert!(found.contains(8) && !found.contains(10) && !found.contains(u32::MAX));
        assert_eq!(found.as_bytes().len(), 32_768 / 8 + 1);
        assert_eq!(ChunkSet::from_bytes(found.as_bytes().to_vec()), found);
    }

    #[test]
    fn bits_are_those_of_version_pack() {
        assert_eq!(set(&[0, 2, 8]).as_bytes(), [0b101, 1]);
    }

    #[test]
    fn sets_of_different_lengths_are_joined() {
        for (mut one, other) in [(set(&[1]), set(&[100, 2])), (set(&[100, 2]), set(&[1]))] {
            one.extend(&other);
            assert_eq!(one.ordinals().collect::<Vec<_>>(), [1, 2, 100]);
        }
        assert!(set(&[]).is_empty() && ChunkSet::from_bytes(vec![0; 9]).is_empty() && !set(&[3]).is_empty());
    }
}
