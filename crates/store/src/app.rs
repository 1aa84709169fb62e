//! Apps.

use chrono::{DateTime, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::project::{App, Lifecycle};
use kkartifact_model::{AppName, ProjectName};

use crate::error::StoreError;
use crate::id::{AppId, ProjectId};
use crate::page::{Cursor, PageQuery};
use crate::role_binding::{Reach, list};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// An app's row, with its project.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AppRow {
    /// Row id.
    pub id: AppId,
    /// Whose.
    pub project_id: ProjectId,
    /// Whose.
    #[sqlx(try_from = "String")]
    pub project: ProjectName,
    /// Where the project is in its life.
    #[sqlx(try_from = "String")]
    pub project_state: Lifecycle,
    /// Its name.
    #[sqlx(try_from = "String")]
    pub name: AppName,
    /// What it is for.
    pub description: String,
    /// Where it is in its life.
    #[sqlx(try_from = "String")]
    pub state: Lifecycle,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

impl AppRow {
    /// Whether neither it nor its project has been deleted.
    pub fn exists(&self) -> bool {
        self.state != Lifecycle::Deleted && self.project_state != Lifecycle::Deleted
    }
}

impl From<AppRow> for App {
    fn from(row: AppRow) -> Self {
        Self {
            project: row.project,
            name: row.name,
            description: row.description,
            state: row.state,
            created_at: row.created_at,
        }
    }
}

macro_rules! columns {
    () => {
        "app.id, app.project_id, p.name AS project, p.state AS project_state, app.name, app.description, app.state,
        app.created_at"
    };
}

// Apps of a project within a reach.
macro_rules! visible_apps {
    () => {
        "FROM app JOIN project p ON p.id = app.project_id
        WHERE app.project_id = $1 AND app.state <> 'deleted'
            AND ($2 OR app.id IN (SELECT CAST(value AS BIGINT) FROM json_each($3)))"
    };
}

statements! {
    INSERT = "INSERT INTO app (project_id, name, description, state, event_seq, created_at)
        VALUES ($1, $2, $3, 'active', 0, $4) ON CONFLICT (project_id, name) DO NOTHING";
    FIND = concat!("SELECT ", columns!(), " FROM app JOIN project p ON p.id = app.project_id
        WHERE p.name = $1 AND app.name = $2");
    GET = concat!("SELECT ", columns!(), " FROM app JOIN project p ON p.id = app.project_id WHERE app.id = $1");
    NEXT = concat!("SELECT ", columns!(), " FROM app JOIN project p ON p.id = app.project_id WHERE app.id > $1
        AND app.state <> 'deleted' AND p.state <> 'deleted' ORDER BY app.id LIMIT 1");
    LIST = concat!("SELECT ", columns!(), " ", visible_apps!(),
        " AND (app.created_at, app.id) < ($4, $5) ORDER BY app.created_at DESC, app.id DESC LIMIT $6 OFFSET $7");
    COUNT = concat!("SELECT COUNT(*) ", visible_apps!());
    UPDATE = "UPDATE app SET description = $2, state = $3 WHERE id = $1 AND state <> 'deleted'";
    DELETE = "UPDATE app SET state = 'deleted', deleted_at = $2 WHERE id = $1 AND state <> 'deleted'";
    LOCK_POSTGRES = "SELECT id FROM app WHERE id = $1 FOR NO KEY UPDATE";
    NEXT_SEQUENCE = "UPDATE app SET event_seq = event_seq + 1 WHERE id = $1 RETURNING event_seq";
}

impl Tx {
    /// Creates an app; whether it was created now. The name may be taken, also by a deleted one.
    pub async fn insert_app(
        &mut self,
        project: ProjectId,
        name: &AppName,
        description: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(self, INSERT, project, name.as_str(), description, now).map(|rows| rows == 1)
    }

    /// The app of this name in the project of this name, in whatever state.
    pub async fn find_app(
        &mut self,
        project: &ProjectName,
        name: &AppName,
    ) -> Result<Option<AppRow>, StoreError> {
        fetch_optional!(self, AppRow, FIND, project.as_str(), name.as_str())
    }

    /// The app of this id.
    pub async fn app(&mut self, id: AppId) -> Result<Option<AppRow>, StoreError> {
        fetch_optional!(self, AppRow, GET, id)
    }

    /// The app behind an id, by id: for going through all of them.
    pub async fn next_app(&mut self, after: AppId) -> Result<Option<AppRow>, StoreError> {
        fetch_optional!(self, AppRow, NEXT, after)
    }

    /// The apps of a project within a reach, newest first.
    pub async fn list_apps(
        &mut self,
        reach: &Reach,
        project: ProjectId,
        page: PageQuery,
    ) -> Result<Page<App>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let (all, apps) = (reach.everything || reach.projects.contains(&project.0), list(&reach.apps));
        let apps = apps.as_str();
        let rows = fetch_all!(self, AppRow, LIST, project, all, apps, at, id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT, project, all, apps)?;
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.id.0 }, App::from))
    }

    /// Changes description and state.
    pub async fn update_app(
        &mut self,
        id: AppId,
        description: &str,
        state: Lifecycle,
    ) -> Result<(), StoreError> {
        execute!(self, UPDATE, id, description, state.as_str()).map(drop)
    }

    /// Tombstones an app, for good: from its time on its versions can be collected.
    pub async fn delete_app(&mut self, id: AppId, now: DateTime<Utc>) -> Result<(), StoreError> {
        execute!(self, DELETE, id, now).map(drop)
    }

    /// Locks the app's row until the transaction ends. Whatever changes an app's versions or channels does this
    /// before it looks at them, so that changes of one app come one after the other and never wait in a circle.
    pub async fn lock_app(&mut self, app: AppId) -> Result<(), StoreError> {
        match self {
            // The single writer is lock enough.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => fetch_one!(self, (AppId,), LOCK_POSTGRES, app).map(drop),
        }
    }

    /// The app's next event sequence, in the order of commits.
    pub async fn next_event_sequence(&mut self, app: AppId) -> Result<i64, StoreError> {
        let (sequence,) = fetch_one!(self, (i64,), NEXT_SEQUENCE, app)?;
        Ok(sequence)
    }
}
