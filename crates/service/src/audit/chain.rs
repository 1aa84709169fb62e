//! Links of the chain, and signed places in it.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use kkartifact_store::{AuditRow, SealRow};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{ApiError, ApiResult};

/// What stands before the first link.
pub(super) const NOTHING: [u8; 32] = [0; 32];

/// The hash of a link: over the one before, its place and its row.
pub(super) fn link(before: &[u8], seq: i64, row: &AuditRow) -> Vec<u8> {
    let canonical = row.canonical();
    let mut hash = Sha256::new();
    hash.update(b"kkArtifact audit link 1\n");
    hash.update(before);
    hash.update(seq.to_be_bytes());
    hash.update(row.id.0.to_be_bytes());
    hash.update((canonical.len() as u64).to_be_bytes());
    hash.update(&canonical);
    hash.finalize().to_vec()
}

/// A place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: i64,
    pub(super) hash: Vec<u8>,
}

impl Place {
    /// Before the first link.
    pub(super) fn origin() -> Self {
        Self { seq: 0, hash: NOTHING.to_vec() }
    }
}

impl From<SealRow> for Place {
    fn from(row: SealRow) -> Self {
        Self { seq: row.seq, hash: row.hash }
    }
}

/// What a signature says of a place. One can't stand for the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    /// The chain ends here, or later.
    End,
    /// Retention has removed everything up to here.
    Start,
}

/// Signs places with Ed25519.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    /// Derives the key from the server's secret key.
    pub(super) fn derive(secret_key: &[u8]) -> ApiResult<Self> {
        let seed = blake3::derive_key("kkArtifact 2026 audit chain", secret_key);
        Ed25519KeyPair::from_seed_unchecked(&seed).map(Self).map_err(ApiError::internal)
    }

    pub(super) fn sign(&self, place: &Place, meaning: Meaning) -> Vec<u8> {
        self.0.sign(&message(place, meaning)).as_ref().to_vec()
    }

    pub(super) fn verify(&self, place: &Place, meaning: Meaning, signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0.public_key().as_ref());
        key.verify(&message(place, meaning), signature).is_ok()
    }
}

fn message(place: &Place, meaning: Meaning) -> Vec<u8> {
    let word = match meaning {
        Meaning::End => "end",
        Meaning::Start => "start",
    };
    let mut message = format!("kkArtifact audit {word} {}\n", place.seq).into_bytes();
    message.extend_from_slice(&place.hash);
    message
}

/// The end of the chain as it lies in the storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) seq: i64,
    pub(super) hash: String,
    pub(super) at: DateTime<Utc>,
    pub(super) signature: String,
}

impl Head {
    pub(super) fn sign(place: &Place, at: DateTime<Utc>, signer: &Signer) -> Self {
        let signature = STANDARD.encode(signer.sign(place, Meaning::End));
        Self { seq: place.seq, hash: STANDARD.encode(&place.hash), at, signature }
    }

    /// The place, if the signature is the server's.
    pub(super) fn place(&self, signer: &Signer) -> Option<Place> {
        let place = Place { seq: self.seq, hash: STANDARD.decode(&self.hash).ok()? };
        let signature = STANDARD.decode(&self.signature).ok()?;
        signer.verify(&place, Meaning::End, &signature).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_place_meaning_and_key() {
        let signer = Signer::derive(b"one").unwrap();
        let place = Place { seq: 7, hash: vec![1; 32] };
        let signature = signer.sign(&place, Meaning::End);
        assert!(signer.verify(&place, Meaning::End, &signature));
        assert!(!signer.verify(&place, Meaning::Start, &signature));
        assert!(!signer.verify(&Place { seq: 8, ..place.clone() }, Meaning::End, &signature));
        assert!(!signer.verify(&Place { hash: vec![2; 32], ..place.clone() }, Meaning::End, &signature));
        assert!(!Signer::derive(b"two").unwrap().verify(&place, Meaning::End, &signature));
        let head = Head::sign(&place, DateTime::UNIX_EPOCH, &signer);
        assert_eq!(head.place(&signer), Some(place));
        assert_eq!(Head { seq: 6, ..head }.place(&signer), None);
    }
}
