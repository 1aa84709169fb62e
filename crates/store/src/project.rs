//! Projects.

use chrono::{DateTime, Utc};
use kkartifact_model::ProjectName;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::project::{Lifecycle, Project};

use crate::error::StoreError;
use crate::id::ProjectId;
use crate::page::{Cursor, PageQuery};
use crate::role_binding::{Reach, list};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A project's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ProjectRow {
    /// Row id.
    pub id: ProjectId,
    /// Its name.
    #[sqlx(try_from = "String")]
    pub name: ProjectName,
    /// What it is for.
    pub description: String,
    /// Where it is in its life.
    #[sqlx(try_from = "String")]
    pub state: Lifecycle,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

impl From<ProjectRow> for Project {
    fn from(row: ProjectRow) -> Self {
        Self { name: row.name, description: row.description, state: row.state, created_at: row.created_at }
    }
}

// Projects within a reach, and those around apps within it.
macro_rules! visible_projects {
    () => {
        "FROM project WHERE state <> 'deleted' AND ($1
            OR id IN (SELECT CAST(value AS BIGINT) FROM json_each($2)))"
    };
}

statements! {
    INSERT = "INSERT INTO project (name, description, state, created_at) VALUES ($1, $2, 'active', $3)
        ON CONFLICT (name) DO NOTHING RETURNING id, name, description, state, created_at";
    FIND = "SELECT id, name, description, state, created_at FROM project WHERE name = $1";
    LIST = concat!("SELECT id, name, description, state, created_at ", visible_projects!(),
        " AND (created_at, id) < ($3, $4) ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6");
    COUNT = concat!("SELECT COUNT(*) ", visible_projects!());
    UPDATE = "UPDATE project SET description = $2, state = $3 WHERE id = $1 AND state <> 'deleted'";
    DELETE = "UPDATE project SET state = 'deleted', deleted_at = $2 WHERE id = $1 AND state <> 'deleted'";
}

impl Tx {
    /// Creates a project; `None` if the name is taken, also by a deleted one.
    pub async fn insert_project(
        &mut self,
        name: &ProjectName,
        description: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<ProjectRow>, StoreError> {
        fetch_optional!(self, ProjectRow, INSERT, name.as_str(), description, now)
    }

    /// The project of this name, in whatever state.
    pub async fn find_project(&mut self, name: &ProjectName) -> Result<Option<ProjectRow>, StoreError> {
        fetch_optional!(self, ProjectRow, FIND, name.as_str())
    }

    /// The projects within a reach and around it, newest first.
    pub async fn list_projects(
        &mut self,
        reach: &Reach,
        page: PageQuery,
    ) -> Result<Page<Project>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let seen = list(&[reach.projects.as_slice(), &reach.around].concat());
        let (all, seen) = (reach.everything, seen.as_str());
        let rows = fetch_all!(self, ProjectRow, LIST, all, seen, at, id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT, all, seen)?;
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.id.0 }, Project::from))
    }

    /// Changes description and state.
    pub async fn update_project(
        &mut self,
        id: ProjectId,
        description: &str,
        state: Lifecycle,
    ) -> Result<(), StoreError> {
        execute!(self, UPDATE, id, description, state.as_str()).map(drop)
    }

    /// Tombstones a project, for good; false if it is deleted already. Until the transaction ends, nobody puts a version
    /// of it under legal hold ([`Tx::keep_project`]).
    pub async fn delete_project(&mut self, id: ProjectId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, DELETE, id, now).map(|rows| rows == 1)
    }
}
