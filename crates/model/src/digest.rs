//! Digests, one type for each thing that is digested, so that they can't be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text or bytes that are not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {0} is 64 hexadecimal digits (32 bytes)")]
pub struct InvalidDigest(&'static str);

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes 32 bytes that were computed or verified elsewhere.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidDigest;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidDigest> {
                bytes.try_into().map(Self).map_err(|_| InvalidDigest($kind))
            }
        }

        impl TryFrom<Vec<u8>> for $name {
            type Error = InvalidDigest;
            fn try_from(bytes: Vec<u8>) -> Result<Self, InvalidDigest> {
                bytes.as_slice().try_into()
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;
            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                from_hex(text).map(Self).ok_or(InvalidDigest($kind))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidDigest;
            fn try_from(text: String) -> Result<Self, InvalidDigest> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(digest: $name) -> String {
                digest.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

digest_type!(
    /// SHA-256 of a file's content, as `sha256sum` prints it.
    FileDigest, "SHA-256 digest"
);
digest_type!(
    /// SHA-256 over a tree's paths, kinds, modes, sizes, file digests and link targets: what makes two versions
    /// the same content. Times are not part of it. See [`crate::manifest::TreeHasher`] for the exact text.
    TreeDigest, "tree digest"
);
digest_type!(
    /// BLAKE3 over a manifest's entries with their chunks, but without times: what two sides must share before
    /// one may tell the other a manifest by changes.
    ManifestDigest, "manifest digest"
);
digest_type!(
    /// BLAKE3 of a chunk's bytes before compression: the chunk's name.
    ChunkId, "chunk id"
);

impl ChunkId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl FileDigest {
    /// SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(
            FileDigest::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            ChunkId::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let digest = FileDigest::of(b"x");
        assert_eq!(digest.to_string().parse::<FileDigest>().unwrap(), digest);
        assert_eq!(digest.to_string().to_uppercase().parse::<FileDigest>().unwrap(), digest);
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"é".repeat(32)] {
            assert!(bad.parse::<FileDigest>().is_err(), "{bad}");
        }
    }
}
