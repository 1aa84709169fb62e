//! API tokens as text: `kka_<id>_<secret>_<check>`.
//!
//! The id finds the row, the secret proves the token, and the check part, a MAC under a key of the server, lets
//! garbage be refused for the price of one hash.

use std::fmt;
use std::str::FromStr;

/// Lower-case letters and digits without i, l, o, u (Crockford's Base32), so that nothing is misread.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 32;
const CHECK_LEN: usize = 8;

/// The public part of a token: what lists and audit rows name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(String);

impl TokenId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = MalformedToken;
    fn from_str(text: &str) -> Result<Self, MalformedToken> {
        is_text(text, ID_LEN).then(|| Self(text.to_owned())).ok_or(MalformedToken)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole token. Its `Debug` form shows the id only.
#[derive(Clone)]
pub struct TokenText {
    id: TokenId,
    secret: String,
}

/// The key that check parts are made under.
#[derive(Clone)]
pub struct CheckKey([u8; 32]);

impl CheckKey {
    /// Derives the key from the server's secret key.
    pub fn derive(secret_key: &[u8]) -> Self {
        Self(blake3::derive_key("kkArtifact 2026 API token check part", secret_key))
    }
}

/// Text that is not a token of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this server")]
pub struct MalformedToken;

impl TokenText {
    /// Makes a token of random bytes.
    pub fn from_random(id: [u8; 10], secret: [u8; 20]) -> Self {
        Self::with_secret(&TokenId(base32(&id)), secret)
    }

    /// The token of this id with another secret.
    pub fn with_secret(id: &TokenId, secret: [u8; 20]) -> Self {
        Self { id: id.clone(), secret: base32(&secret) }
    }

    /// Reads a token and verifies its check part in constant time.
    pub fn parse(text: &str, key: &CheckKey) -> Result<Self, MalformedToken> {
        let mut parts = text.split('_');
        let (Some("kka"), Some(id), Some(secret), Some(check), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedToken);
        };
        if !is_text(secret, SECRET_LEN) || !is_text(check, CHECK_LEN) {
            return Err(MalformedToken);
        }
        let token = Self { id: id.parse()?, secret: secret.to_owned() };
        if same(token.check(key).as_bytes(), check.as_bytes()) { Ok(token) } else { Err(MalformedToken) }
    }

    /// The public part.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The secret part: what is stored as bcrypt.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The token as its owner gets it, once.
    pub fn reveal(&self, key: &CheckKey) -> String {
        format!("kka_{}_{}_{}", self.id, self.secret, self.check(key))
    }

    fn check(&self, key: &CheckKey) -> String {
        let mac = blake3::keyed_hash(&key.0, format!("{}_{}", self.id, self.secret).as_bytes());
        base32(&mac.as_bytes()[..5])
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenText({}, …)", self.id)
    }
}

/// A service account's secret, `kks_<secret>_<check>`: like a token, garbage costs one hash and no bcrypt. The check
/// part is bound to the client id.
#[derive(Clone)]
pub struct ClientSecret(String);

impl ClientSecret {
    /// Makes a secret of random bytes.
    pub fn from_random(secret: [u8; 20]) -> Self {
        Self(base32(&secret))
    }

    /// Reads a secret and verifies its check part in constant time.
    pub fn parse(text: &str, client_id: &str, key: &CheckKey) -> Result<Self, MalformedToken> {
        let mut parts = text.split('_');
        let (Some("kks"), Some(secret), Some(check), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedToken);
        };
        if !is_text(secret, SECRET_LEN) || !is_text(check, CHECK_LEN) {
            return Err(MalformedToken);
        }
        let parsed = Self(secret.to_owned());
        let right = same(parsed.check(client_id, key).as_bytes(), check.as_bytes());
        if right { Ok(parsed) } else { Err(MalformedToken) }
    }

    /// The secret part: what is stored as bcrypt.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// The secret as its owner gets it, once.
    pub fn reveal(&self, client_id: &str, key: &CheckKey) -> String {
        format!("kks_{}_{}", self.0, self.check(client_id, key))
    }

    fn check(&self, client_id: &str, key: &CheckKey) -> String {
        let mac = blake3::keyed_hash(&key.0, format!("client {client_id} {}", self.0).as_bytes());
        base32(&mac.as_bytes()[..5])
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(…)")
    }
}

fn is_text(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// Five bits a character; the lengths used here leave no rest.
fn base32(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    (0..bytes.len() * 8 / 5)
        .map(|i| (0..5).fold(0, |value, b| value << 1 | bit(i * 5 + b)))
        .map(|value| char::from(ALPHABET[usize::from(value)]))
        .collect()
}

/// Random bytes, five at a time, as text that a person can read aloud: one-time secrets, suffixes.
pub fn readable<const N: usize>(random: [u8; N]) -> String {
    base32(&random)
}

/// Compares without telling by time where the difference is.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_under_their_key_only() {
        let key = CheckKey::derive(b"one");
        let token = TokenText::from_random([7; 10], [9; 20]);
        let text = token.reveal(&key);
        assert_eq!(text.len(), 4 + 16 + 1 + 32 + 1 + 8);
        let read = TokenText::parse(&text, &key).unwrap();
        assert_eq!((read.id(), read.secret()), (token.id(), token.secret()));
        assert!(TokenText::parse(&text, &CheckKey::derive(b"two")).is_err());
        assert!(!format!("{token:?}").contains(token.secret()));
    }

    #[test]
    fn client_secrets_belong_to_their_client() {
        let key = CheckKey::derive(b"one");
        let secret = ClientSecret::from_random([3; 20]);
        let text = secret.reveal("sa_ci_1", &key);
        assert_eq!(ClientSecret::parse(&text, "sa_ci_1", &key).unwrap().secret(), secret.secret());
        assert!(ClientSecret::parse(&text, "sa_ci_2", &key).is_err());
        assert!(ClientSecret::parse(&text, "sa_ci_1", &CheckKey::derive(b"two")).is_err());
        assert!(ClientSecret::parse(&text[1..], "sa_ci_1", &key).is_err());
        assert!(!format!("{secret:?}").contains(secret.secret()));
    }

    #[test]
    fn any_changed_character_is_refused() {
        let key = CheckKey::derive(b"one");
        let text = TokenText::from_random([1; 10], [2; 20]).reveal(&key);
        for at in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] = if bad[at] == b'x' { b'y' } else { b'x' };
            assert!(TokenText::parse(&String::from_utf8(bad).unwrap(), &key).is_err(), "{at}");
        }
        for bad in ["", "kka", "kka___", "Bearer x", &text[1..], &format!("{text}_x"), &text.to_uppercase()] {
            assert!(TokenText::parse(bad, &key).is_err());
        }
    }
}
