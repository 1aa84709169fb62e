//! Secrets that must be had back in clear, encrypted under the server's secret key: private keys, login states.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::error::{ApiError, ApiResult};
use crate::secret;

/// Encrypts and decrypts with AES-256-GCM. What was sealed for one purpose does not open for another.
#[derive(Clone)]
pub struct Vault([u8; 32]);

impl Vault {
    /// Derives the key from the server's secret key.
    pub fn derive(secret_key: &[u8]) -> Self {
        Self(blake3::derive_key("kkArtifact 2026 secrets at rest", secret_key))
    }

    fn key(&self) -> ApiResult<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &self.0).map(LessSafeKey::new).map_err(ApiError::internal)
    }

    /// Encrypts for a purpose.
    pub fn seal(&self, purpose: &str, clear: &[u8]) -> ApiResult<Vec<u8>> {
        let nonce = secret::random::<NONCE_LEN>()?;
        let mut sealed = nonce.to_vec();
        let mut bytes = clear.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let done = self.key()?.seal_in_place_append_tag(nonce, Aad::from(purpose.as_bytes()), &mut bytes);
        done.map_err(ApiError::internal)?;
        sealed.append(&mut bytes);
        Ok(sealed)
    }

    /// Decrypts what was sealed for the same purpose under the same key; `None` if it was not.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = bytes.to_vec();
        let clear = self.key().ok()?.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut bytes).ok()?;
        Some(clear.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_and_key_only() {
        let vault = Vault::derive(b"one");
        let sealed = vault.seal("signing key 1", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(vault.open("signing key 1", &sealed).unwrap(), b"secret");
        assert_eq!(vault.open("signing key 2", &sealed), None);
        assert_eq!(Vault::derive(b"two").open("signing key 1", &sealed), None);
        assert_ne!(vault.seal("signing key 1", b"secret").unwrap(), sealed);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(vault.open("signing key 1", &bad), None, "{at}");
        }
        assert_eq!(vault.open("signing key 1", b"short"), None);
    }
}
