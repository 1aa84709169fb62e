//! What is said about versions: labels, notes, pins and holds. Their content never changes.

use crate::error::StoreError;
use crate::id::VersionId;
use crate::tx::{Tx, execute, fetch_one, statements};

/// Only versions with a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    /// Its key.
    pub key: String,
    /// Its value; any if absent.
    pub value: Option<String>,
}

impl From<&str> for LabelFilter {
    /// Reads `key` or `key=value`.
    fn from(text: &str) -> Self {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        Self { key: key.to_owned(), value }
    }
}

// That a version has a label, where one is asked for: by the version's id, and the parameters of key and value.
macro_rules! labelled {
    ($version:literal, $key:literal, $value:literal) => {
        concat!(
            "(CAST(",
            $key,
            " AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM version_label l WHERE l.version_id = ",
            $version,
            " AND l.key = ",
            $key,
            " AND (CAST(",
            $value,
            " AS TEXT) IS NULL OR l.value = ",
            $value,
            ")))"
        )
    };
}
pub(crate) use labelled;

statements! {
    SET = "INSERT INTO version_label (version_id, key, value) VALUES ($1, $2, $3)
        ON CONFLICT (version_id, key) DO UPDATE SET value = EXCLUDED.value";
    REMOVE = "DELETE FROM version_label WHERE version_id = $1 AND key = $2";
    COUNT = "SELECT COUNT(*) FROM version_label WHERE version_id = $1";
    SAY = "UPDATE version SET notes = $2, pinned = $3, legal_hold = $4 WHERE id = $1";
}

impl Tx {
    /// Sets a label of a version, or removes it.
    pub async fn set_version_label(
        &mut self,
        version: VersionId,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), StoreError> {
        match value {
            Some(value) => execute!(self, SET, version, key, value).map(drop),
            None => execute!(self, REMOVE, version, key).map(drop),
        }
    }

    /// How many labels a version has.
    pub async fn count_version_labels(&mut self, version: VersionId) -> Result<u64, StoreError> {
        let (count,) = fetch_one!(self, (i64,), COUNT, version)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Sets what is said about a version, whether retention leaves it alone, and whether nothing and nobody deletes it.
    /// The transaction has locked the app.
    pub async fn annotate_version(
        &mut self,
        version: VersionId,
        notes: &str,
        pinned: bool,
        legal_hold: bool,
    ) -> Result<(), StoreError> {
        execute!(self, SAY, version, notes, pinned, legal_hold).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_key_or_a_key_with_its_value() {
        let filter = |key: &str, value: Option<&str>| LabelFilter {
            key: key.into(),
            value: value.map(ToOwned::to_owned),
        };
        assert_eq!(LabelFilter::from("env"), filter("env", None));
        assert_eq!(LabelFilter::from("env="), filter("env", Some("")));
        assert_eq!(LabelFilter::from("env=a=b"), filter("env", Some("a=b")));
    }
}
