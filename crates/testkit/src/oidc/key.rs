//! Keys that sign tokens rightly and wrongly. They use the cryptography itself and not a library for tokens, since
//! such a library refuses to make most of what an attacker sends.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

/// An RSA key that signs what it is told to.
#[derive(Debug, Clone)]
pub struct SigningKey {
    kid: String,
    pair: KeyPair,
}

impl SigningKey {
    /// A new key with an id of its own.
    pub fn generate() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        Self { kid: Uuid::new_v4().simple().to_string(), pair }
    }

    /// The same key under another id.
    pub fn named(self, kid: &str) -> Self {
        Self { kid: kid.to_owned(), ..self }
    }

    /// Its id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// A token as it should be.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with_header(&json!({ "alg": "RS256", "typ": "JWT", "kid": self.kid }), claims)
    }

    /// A token with this header; the signature is RS256 whatever the header says.
    pub fn sign_with_header(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token without a signature that says so: `alg` is `none`.
    pub fn unsigned(&self, claims: &Value) -> String {
        format!("{}.", message(&json!({ "alg": "none", "typ": "JWT", "kid": self.kid }), claims))
    }

    /// Key confusion: tokens whose HMAC secret is this public key, in each form that a server may hold it in.
    pub fn confused(&self, claims: &Value) -> Vec<String> {
        let public = self.pair.public_key();
        let spki: PublicKeyX509Der<'static> = public.as_der().unwrap();
        let spki: &[u8] = spki.as_ref();
        let modulus = public.modulus().big_endian_without_leading_zero();
        let message = message(&json!({ "alg": "HS256", "typ": "JWT", "kid": self.kid }), claims);
        let secrets = [
            pem(spki).into_bytes(),
            spki.to_vec(),
            public.as_ref().to_vec(),
            modulus.to_vec(),
            URL_SAFE_NO_PAD.encode(modulus).into_bytes(),
        ];
        let tokens = secrets.iter().map(|secret| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
        });
        tokens.collect()
    }

    /// The public half, as a key set has it.
    pub(super) fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self.kid,
            "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }
}

fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn pem(spki: &[u8]) -> String {
    let text = STANDARD.encode(spki);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}
