//! Random secrets, and hashing them.

use kkartifact_model::token::{ClientSecret, TokenText, readable};

use crate::error::ApiError;

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
    Ok(bytes)
}

/// A new token.
pub fn new_token() -> Result<TokenText, ApiError> {
    Ok(TokenText::from_random(random()?, random()?))
}

/// A new one-time secret.
pub fn new_secret() -> Result<String, ApiError> {
    Ok(readable::<20>(random()?))
}

/// A new secret of a service account.
pub fn new_client_secret() -> Result<ClientSecret, ApiError> {
    Ok(ClientSecret::from_random(random()?))
}

/// A new key.
pub fn new_key() -> Result<[u8; 32], ApiError> {
    random()
}

/// bcrypt of a secret, off the async threads.
pub async fn hash(secret: &str, cost: u32) -> Result<String, ApiError> {
    let secret = secret.to_owned();
    let join = tokio::task::spawn_blocking(move || bcrypt::hash(secret, cost)).await;
    join.map_err(ApiError::internal)?.map_err(ApiError::internal)
}

/// bcrypt looks at so many bytes, and at none behind a NUL.
pub const MOST: usize = 72;

/// Whether a secret is the one that was hashed, off the async threads. One that bcrypt would cut is wrong, and costs
/// the same.
pub async fn verify(secret: &str, hash: &str) -> Result<bool, ApiError> {
    let whole = secret.len() <= MOST && !secret.contains('\0');
    let (secret, hash) = (secret.to_owned(), hash.to_owned());
    let join = tokio::task::spawn_blocking(move || bcrypt::verify(secret, &hash)).await;
    let right = join.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    Ok(right && whole)
}
