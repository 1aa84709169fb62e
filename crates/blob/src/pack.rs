//! The form of a pack.
//!
//! ```text
//! pack    = magic chunk* footer trailer
//! footer  = format count project-len project app-len app entry*
//! entry   = id (32) offset (8) stored-len (4) len (4) has-sha256 (1) [sha256 (32)]
//! trailer = footer-len (4) BLAKE3 of the footer (32) magic
//! ```
//!
//! Integers are little endian. The footer makes a pack self-contained: rows can be rebuilt from it.

use bytes::{Buf as _, Bytes};
use kkartifact_model::{AppName, ChunkId, FileDigest, ProjectName};
use uuid::Uuid;

/// What a pack begins and ends with.
pub(crate) const MAGIC: &[u8; 8] = b"kkpack1\n";
/// Bytes of the trailer.
pub(crate) const TRAILER: usize = 4 + 32 + 8;
/// The largest footer that is read: far above what [`crate::MAX_CHUNKS`] chunks need.
const MAX_FOOTER: usize = 16 << 20;
const FORMAT: u32 = 1;

/// For whom a pack is written. Names, since a footer must mean something without the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOwner {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
}

/// A verified chunk on its way into a pack.
#[derive(Debug, Clone)]
pub struct PackChunk {
    /// Its name.
    pub id: ChunkId,
    /// Bytes before compression.
    pub len: u32,
    /// SHA-256 of the bytes before compression, where they came as a whole file.
    pub sha256: Option<FileDigest>,
    /// The bytes as they are stored: compressed if there are fewer than `len`.
    pub stored: Bytes,
}

/// A chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub id: ChunkId,
    /// Where its stored bytes begin.
    pub offset: u64,
    /// How many bytes are stored.
    pub stored_len: u32,
    /// Bytes before compression.
    pub len: u32,
    /// SHA-256 of the bytes before compression, where they came as a whole file.
    pub sha256: Option<FileDigest>,
}

/// What a pack says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    /// Whose.
    pub owner: PackOwner,
    /// Its chunks in order.
    pub entries: Vec<PackEntry>,
}

/// A pack that is whole and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPack {
    /// Its name.
    pub key: Uuid,
    /// Bytes of the object.
    pub size: u64,
    /// Its chunks in order.
    pub entries: Vec<PackEntry>,
}

impl PackFooter {
    /// Footer and trailer as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * 81);
        put_u32(&mut out, FORMAT as usize);
        put_u32(&mut out, self.entries.len());
        for name in [self.owner.project.as_str(), self.owner.app.as_str()] {
            put_u32(&mut out, name.len());
            out.extend_from_slice(name.as_bytes());
        }
        for entry in &self.entries {
            out.extend_from_slice(entry.id.as_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.stored_len.to_le_bytes());
            out.extend_from_slice(&entry.len.to_le_bytes());
            out.push(entry.sha256.is_some().into());
            if let Some(sha256) = &entry.sha256 {
                out.extend_from_slice(sha256.as_bytes());
            }
        }
        let (len, digest) = (out.len(), blake3::hash(&out));
        put_u32(&mut out, len);
        out.extend_from_slice(digest.as_bytes());
        out.extend_from_slice(MAGIC);
        out
    }

    /// Reads a footer whose trailer has been read by [`footer_len`].
    pub(crate) fn decode(footer: &[u8], trailer: &[u8]) -> Result<Self, &'static str> {
        if trailer.get(4..36) != Some(&blake3::hash(footer).as_bytes()[..]) {
            return Err("its footer does not match its digest");
        }
        parse(footer).ok_or("its footer is malformed")
    }
}

/// The length of the footer before a trailer.
pub(crate) fn footer_len(trailer: &[u8]) -> Result<usize, &'static str> {
    if trailer.len() != TRAILER || &trailer[36..] != MAGIC {
        return Err("it has no trailer");
    }
    let len = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize;
    if len > MAX_FOOTER { Err("its footer is too large") } else { Ok(len) }
}

fn parse(mut rest: &[u8]) -> Option<PackFooter> {
    if rest.try_get_u32_le().ok()? != FORMAT {
        return None;
    }
    let count = rest.try_get_u32_le().ok()? as usize;
    let project = text(&mut rest)?.parse().ok()?;
    let app = text(&mut rest)?.parse().ok()?;
    if count > rest.len() / 49 {
        return None;
    }
    let entries = (0..count).map(|_| entry(&mut rest)).collect::<Option<_>>()?;
    rest.is_empty().then_some(PackFooter { owner: PackOwner { project, app }, entries })
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = rest.try_get_u32_le().ok()? as usize;
    let (text, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

fn digest(rest: &mut &[u8]) -> Option<[u8; 32]> {
    let (digest, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*digest)
}

fn entry(rest: &mut &[u8]) -> Option<PackEntry> {
    Some(PackEntry {
        id: ChunkId::from_bytes(digest(rest)?),
        offset: rest.try_get_u64_le().ok()?,
        stored_len: rest.try_get_u32_le().ok()?,
        len: rest.try_get_u32_le().ok()?,
        sha256: match rest.try_get_u8().ok()? {
            0 => None,
            _ => Some(FileDigest::from_bytes(digest(rest)?)),
        },
    })
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PackFooter {
        let owner = PackOwner { project: "p".parse().unwrap(), app: "a".parse().unwrap() };
        let entry = |text: &[u8], sha256| PackEntry {
            id: ChunkId::of(text),
            offset: 8,
            stored_len: 5,
            len: 9,
            sha256,
        };
        PackFooter { owner, entries: vec![entry(b"x", None), entry(b"y", Some(FileDigest::of(b"y")))] }
    }

    #[test]
    fn footers_round_trip() {
        let bytes = sample().encode();
        let (footer, trailer) = bytes.split_at(bytes.len() - TRAILER);
        assert_eq!(footer_len(trailer).unwrap(), footer.len());
        assert_eq!(PackFooter::decode(footer, trailer).unwrap(), sample());
    }

    #[test]
    fn a_changed_footer_is_refused() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let (footer, trailer) = bad.split_at(bad.len() - TRAILER);
            let read = footer_len(trailer).and_then(|len| {
                if len == footer.len() { PackFooter::decode(footer, trailer) } else { Err("length") }
            });
            assert!(read.is_err(), "{at}");
        }
    }
}
