//! Settings that can change while the server runs, and the one-time secret of the first start.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use crate::error::StoreError;
use crate::tx::{Tx, execute, fetch_optional, statements};

statements! {
    GET = "SELECT value FROM setting WHERE key = $1";
    PUT = "INSERT INTO setting (key, value, updated_at) VALUES ($1, $2, $3)
        ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at";
    ADD = "INSERT INTO setting (key, value, updated_at) VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING";
    TAKE = "DELETE FROM setting WHERE key = $1";
}

impl Tx {
    /// A setting's value.
    pub async fn setting(&mut self, key: &str) -> Result<Option<serde_json::Value>, StoreError> {
        let row = fetch_optional!(self, (Json<serde_json::Value>,), GET, key)?;
        Ok(row.map(|(value,)| value.0))
    }

    /// Sets a setting.
    pub async fn put_setting(
        &mut self,
        key: &str,
        value: &serde_json::Value,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        execute!(self, PUT, key, Json(value), now).map(drop)
    }

    /// Sets a setting unless it is set; whether it was set now.
    pub async fn add_setting(
        &mut self,
        key: &str,
        value: &serde_json::Value,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(self, ADD, key, Json(value), now).map(|rows| rows == 1)
    }

    /// Removes a setting; whether it was there. Of two that try at once, one gets true.
    pub async fn take_setting(&mut self, key: &str) -> Result<bool, StoreError> {
        execute!(self, TAKE, key).map(|rows| rows == 1)
    }
}
