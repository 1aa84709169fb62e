//! Webhooks: who hears of which events.

use chrono::{DateTime, Utc};
use kkartifact_model::api::access::Scope;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::webhook::WebhookFormat;
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::{AppId, ProjectId};
use crate::page::{Cursor, PageQuery};
use crate::role_binding::{Reach, list};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A webhook's row. What is encrypted stays so here.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct WebhookRow {
    /// Row number.
    pub seq: i64,
    /// Names it outside.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where events are posted to, as far as it is shown.
    pub url: String,
    /// What the receiver gets.
    #[sqlx(try_from = "String")]
    pub format: WebhookFormat,
    /// Kinds of events, or `*`.
    #[sqlx(json)]
    pub events: Vec<String>,
    /// Headers that are sent along, and the URL if not all of it is shown, encrypted.
    pub headers: Option<Vec<u8>>,
    /// What signs, encrypted.
    pub secrets: Option<Vec<u8>>,
    /// Whether events are sent.
    pub enabled: bool,
    /// Why the server disabled it.
    pub disabled_reason: Option<String>,
    /// Since when nothing could be delivered.
    pub failing_since: Option<DateTime<Utc>>,
    /// It stands in the configuration.
    pub declared: bool,
    /// Only events of this project.
    pub project_id: Option<ProjectId>,
    /// Only events of this app.
    pub app_id: Option<AppId>,
    project: Option<String>,
    app: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed.
    pub updated_at: DateTime<Utc>,
}

impl WebhookRow {
    /// Which events, with names.
    pub fn scope(&self) -> Scope {
        Scope {
            project: self.project.as_deref().and_then(|name| name.parse().ok()),
            app: self.app.as_deref().and_then(|name| name.parse().ok()),
        }
    }
}

/// A webhook as it is to be.
#[derive(Clone, Copy)]
pub struct NewWebhookRow<'a> {
    /// What people call it.
    pub name: &'a str,
    /// Where events are posted to, as far as it is shown.
    pub url: &'a str,
    /// What the receiver gets.
    pub format: WebhookFormat,
    /// Kinds of events, or `*`.
    pub events: &'a [String],
    /// Headers that are sent along, and the URL if not all of it is shown, encrypted.
    pub headers: Option<&'a [u8]>,
    /// What signs, encrypted.
    pub secrets: Option<&'a [u8]>,
    /// Whether events are sent.
    pub enabled: bool,
    /// It stands in the configuration.
    pub declared: bool,
}

macro_rules! columns {
    () => {
        "SELECT w.seq, w.id, w.name, w.url, w.format, w.events, w.headers, w.secrets, w.enabled, w.disabled_reason,
            w.failing_since, w.declared, w.project_id, w.app_id, p.name AS project, a.name AS app, w.created_at,
            w.updated_at
        FROM webhook w LEFT JOIN project p ON p.id = w.project_id LEFT JOIN app a ON a.id = w.app_id "
    };
}

macro_rules! within {
    () => {
        "WHERE ($1 OR COALESCE(w.project_id, 0) IN (SELECT CAST(value AS BIGINT) FROM json_each($2))
            OR COALESCE(w.app_id, 0) IN (SELECT CAST(value AS BIGINT) FROM json_each($3)))"
    };
}

macro_rules! wanting {
    () => {
        "SELECT w.seq FROM webhook w WHERE w.enabled
            AND (w.project_id IS NULL OR (w.project_id = $2 AND (w.app_id IS NULL OR w.app_id = $3)))
            AND EXISTS (SELECT 1 FROM json_each(CAST(w.events AS TEXT)) WHERE value IN ($1, '*'))
        ORDER BY w.seq LIMIT 100000"
    };
}

statements! {
    WANTING = wanting!();
    // One that is being deleted must be gone, or stay until this is committed.
    WANTING_POSTGRES = concat!(wanting!(), " FOR KEY SHARE OF w");
    INSERT = "INSERT INTO webhook (id, name, url, format, events, headers, secrets, enabled, failures, declared,
            project_id, app_id, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11, $12, $12) ON CONFLICT DO NOTHING";
    FIND = concat!(columns!(), "WHERE w.id = $1");
    GET = concat!(columns!(), "WHERE w.seq = $1");
    FIND_NAMED = concat!(columns!(), "WHERE w.name = $3 AND COALESCE(w.project_id, 0) = COALESCE(CAST($1 AS BIGINT), 0)
        AND COALESCE(w.app_id, 0) = COALESCE(CAST($2 AS BIGINT), 0)");
    LOCK_POSTGRES = "SELECT seq FROM webhook WHERE id = $1 FOR NO KEY UPDATE";
    LIST = concat!(columns!(), within!(),
        " AND (w.created_at, w.seq) < ($4, $5) ORDER BY w.created_at DESC, w.seq DESC LIMIT $6 OFFSET $7");
    COUNT = concat!("SELECT COUNT(*) FROM webhook w ", within!());
    COUNT_ALL = "SELECT COUNT(*) FROM webhook";
    DECLARED = concat!(columns!(), "WHERE w.declared ORDER BY w.seq LIMIT 100000");
    // One that is enabled again begins anew.
    UPDATE = "UPDATE webhook SET name = $2, url = $3, format = $4, events = $5, headers = $6, secrets = $7,
            failing_since = CASE WHEN $8 AND NOT enabled THEN NULL ELSE failing_since END,
            failures = CASE WHEN $8 AND NOT enabled THEN 0 ELSE failures END,
            disabled_reason = CASE WHEN $8 THEN NULL ELSE disabled_reason END,
            enabled = $8, declared = $9, updated_at = $10
        WHERE seq = $1";
    DELETE = "DELETE FROM webhook WHERE seq = $1";
    DISABLE = "UPDATE webhook SET enabled = FALSE, disabled_reason = $2, updated_at = $3 WHERE seq = $1 AND enabled";
    // Meanwhile something may have been delivered.
    DISABLE_FAILING = "UPDATE webhook SET enabled = FALSE, disabled_reason = $2, updated_at = $3
        WHERE seq = $1 AND enabled AND failing_since <= $4";
}

impl Tx {
    /// The enabled webhooks that want an event of this kind and place.
    pub(crate) async fn wanting_webhooks(
        &mut self,
        kind: &str,
        project: Option<ProjectId>,
        app: Option<AppId>,
    ) -> Result<Vec<i64>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => WANTING,
            Self::Postgres(_) => WANTING_POSTGRES,
        };
        let rows = fetch_all!(self, (i64,), sql, kind, project, app)?;
        Ok(rows.into_iter().map(|(seq,)| seq).collect())
    }

    /// Makes a webhook; false if the scope has one of this name.
    pub async fn insert_webhook(
        &mut self,
        id: Uuid,
        scope: (Option<ProjectId>, Option<AppId>),
        new: &NewWebhookRow<'_>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(
            self,
            INSERT,
            id,
            new.name,
            new.url,
            new.format.as_str(),
            Json(new.events),
            new.headers,
            new.secrets,
            new.enabled,
            new.declared,
            scope.0,
            scope.1,
            now
        )
        .map(|rows| rows == 1)
    }

    /// The webhook of this id.
    pub async fn find_webhook(&mut self, id: Uuid) -> Result<Option<WebhookRow>, StoreError> {
        fetch_optional!(self, WebhookRow, FIND, id)
    }

    /// The webhook of this row number.
    pub async fn webhook(&mut self, seq: i64) -> Result<Option<WebhookRow>, StoreError> {
        fetch_optional!(self, WebhookRow, GET, seq)
    }

    /// The webhook of this name in just this scope.
    pub async fn find_webhook_named(
        &mut self,
        scope: (Option<ProjectId>, Option<AppId>),
        name: &str,
    ) -> Result<Option<WebhookRow>, StoreError> {
        fetch_optional!(self, WebhookRow, FIND_NAMED, scope.0, scope.1, name)
    }

    /// Holds off others who would change the webhook, until the transaction ends. Whoever writes what they have read of
    /// it does this before they read.
    pub async fn lock_webhook(&mut self, id: Uuid) -> Result<(), StoreError> {
        match self {
            // The single writer is lock enough.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => fetch_optional!(self, (i64,), LOCK_POSTGRES, id).map(drop),
        }
    }

    /// The webhooks within a reach, newest first.
    pub async fn list_webhooks(
        &mut self,
        reach: &Reach,
        page: PageQuery,
    ) -> Result<Page<WebhookRow>, StoreError> {
        let (projects, apps) = (list(&reach.projects), list(&reach.apps));
        let (all, projects, apps) = (reach.everything, projects.as_str(), apps.as_str());
        let (at, seq) = (page.after.time(), page.after.id);
        let (fetch, skip) = (page.fetch(), page.skip());
        let rows = fetch_all!(self, WebhookRow, LIST, all, projects, apps, at, seq, fetch, skip)?;
        let (total,) = fetch_one!(self, (i64,), COUNT, all, projects, apps)?;
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.seq }, |row| row))
    }

    /// How many webhooks there are.
    pub async fn count_webhooks(&mut self) -> Result<u64, StoreError> {
        let (count,) = fetch_one!(self, (i64,), COUNT_ALL)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The webhooks that stand in the configuration, or did at the last start.
    pub async fn declared_webhooks(&mut self) -> Result<Vec<WebhookRow>, StoreError> {
        fetch_all!(self, WebhookRow, DECLARED)
    }

    /// Changes a webhook to be like this. One that is enabled by it forgets why it was disabled.
    /// [`StoreError::Conflict`] if its scope has another one of the name.
    pub async fn update_webhook(
        &mut self,
        seq: i64,
        new: &NewWebhookRow<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            UPDATE,
            seq,
            new.name,
            new.url,
            new.format.as_str(),
            Json(new.events),
            new.headers,
            new.secrets,
            new.enabled,
            new.declared,
            now
        )
        .map(drop)
    }

    /// Removes a webhook with what is left of its deliveries; whether it was there. Those of one that had many are
    /// removed before, page by page: [`Self::remove_deliveries`].
    pub async fn delete_webhook(&mut self, seq: i64) -> Result<bool, StoreError> {
        execute!(self, DELETE, seq).map(|rows| rows == 1)
    }

    /// Disables a webhook and says why; with a time, only if nothing has been delivered since then. Whether it was
    /// disabled by this.
    pub async fn disable_webhook(
        &mut self,
        seq: i64,
        reason: &str,
        failing_before: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let changed = match failing_before {
            Some(before) => execute!(self, DISABLE_FAILING, seq, reason, now, before)?,
            None => execute!(self, DISABLE, seq, reason, now)?,
        };
        Ok(changed == 1)
    }
}
