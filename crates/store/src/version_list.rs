//! Versions as lists and answers show them: with the channels that point to them, and their labels.

use std::collections::{BTreeMap, HashMap};

use kkartifact_model::api::page::Page;
use kkartifact_model::api::version::Version;
use kkartifact_model::{ChannelName, TreeDigest};

use crate::app::AppRow;
use crate::error::StoreError;
use crate::id::VersionId;
use crate::page::{Cursor, PageQuery};
use crate::role_binding::list;
use crate::tx::{Tx, fetch_all, fetch_one, statements};
use crate::version::{VersionRow, version_columns, version_names};
use crate::version_label::{LabelFilter, labelled};

/// Which versions of an app a list has.
#[derive(Debug, Clone, Default)]
pub struct VersionFilter {
    /// Deleted and archived ones instead of those that are there.
    pub deleted: bool,
    /// Only those built from this commit.
    pub git_commit: Option<String>,
    /// Only those of this content.
    pub tree_digest: Option<TreeDigest>,
    /// Only those with this label.
    pub label: Option<LabelFilter>,
}

macro_rules! listed {
    () => {
        concat!(
            "WHERE v.app_id = $1 AND (v.state IN ('deleted', 'purged')) = $2
            AND (CAST($3 AS TEXT) IS NULL OR v.git_commit = $3)
            AND (CAST($4 AS TEXT) IS NULL OR v.tree_digest = $5)
            AND ",
            labelled!("v.id", "$6", "$7")
        )
    };
}

statements! {
    LIST = concat!("SELECT ", version_columns!(), "FROM version v ", version_names!(), listed!(),
        " AND (v.created_at, v.id) < ($8, $9) ORDER BY v.created_at DESC, v.id DESC LIMIT $10 OFFSET $11");
    COUNT = concat!("SELECT COUNT(*) FROM version v ", listed!());
    // At most 100 of each version.
    CHANNELS = "SELECT n.version_id, n.name FROM (SELECT c.version_id, c.name,
            ROW_NUMBER() OVER (PARTITION BY c.version_id ORDER BY c.name) AS place
        FROM channel c WHERE c.version_id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))) n
        WHERE n.place <= 100 ORDER BY n.version_id, n.name";
    LABELS = "SELECT l.version_id, l.key, l.value FROM version_label l
        WHERE l.version_id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))";
}

/// What stands around versions.
struct Around {
    channels: HashMap<VersionId, Vec<ChannelName>>,
    labels: HashMap<VersionId, BTreeMap<String, String>>,
}

impl Around {
    /// Takes what belongs to a version: once for each.
    fn describe(&mut self, row: VersionRow) -> Version {
        let channels = self.channels.remove(&row.id).unwrap_or_default();
        let labels = self.labels.remove(&row.id).unwrap_or_default();
        row.into_version(channels, labels)
    }
}

impl Tx {
    /// A version as the API shows it.
    pub async fn describe_version(&mut self, row: VersionRow) -> Result<Version, StoreError> {
        let mut around = self.around(&[row.id]).await?;
        Ok(around.describe(row))
    }

    /// Versions as the API shows them, in the same order: two statements, however many they are.
    pub async fn describe_versions(&mut self, rows: Vec<VersionRow>) -> Result<Vec<Version>, StoreError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let mut around = self.around(&ids).await?;
        Ok(rows.into_iter().map(|row| around.describe(row)).collect())
    }

    async fn around(&mut self, ids: &[VersionId]) -> Result<Around, StoreError> {
        let ids = list(ids);
        let mut around = Around { channels: HashMap::new(), labels: HashMap::new() };
        for (id, name) in fetch_all!(self, (VersionId, String), CHANNELS, ids.as_str())? {
            // A name that this release can't read is left out.
            around.channels.entry(id).or_default().extend(name.parse::<ChannelName>().ok());
        }
        for (id, key, value) in fetch_all!(self, (VersionId, String, String), LABELS, ids.as_str())? {
            around.labels.entry(id).or_default().insert(key, value);
        }
        Ok(around)
    }

    /// The versions of an app, newest first.
    pub async fn list_versions(
        &mut self,
        app: &AppRow,
        filter: &VersionFilter,
        page: PageQuery,
    ) -> Result<Page<Version>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let commit = filter.git_commit.as_deref();
        let tree = filter.tree_digest.as_ref().map_or(&[][..], |digest| digest.as_bytes());
        let by_tree = filter.tree_digest.map(|_| "by tree");
        let key = filter.label.as_ref().map(|label| label.key.as_str());
        let value = filter.label.as_ref().and_then(|label| label.value.as_deref());
        let rows = fetch_all!(
            self,
            VersionRow,
            LIST,
            app.id,
            filter.deleted,
            commit,
            by_tree,
            tree,
            key,
            value,
            at,
            id,
            page.fetch(),
            page.skip()
        )?;
        let (total,) =
            fetch_one!(self, (i64,), COUNT, app.id, filter.deleted, commit, by_tree, tree, key, value)?;
        let place = |row: &VersionRow| Cursor { at: row.created_at, id: row.id.0 };
        let rows = page.page(rows, total, place, |row| row);
        Ok(Page {
            items: self.describe_versions(rows.items).await?,
            total: rows.total,
            limit: rows.limit,
            offset: rows.offset,
            has_more: rows.has_more,
            next_cursor: rows.next_cursor,
        })
    }
}
