//! Legal holds, as far as they keep what versions are in from being deleted.

use kkartifact_model::{AppName, VersionName};

use crate::error::StoreError;
use crate::id::{AppId, ProjectId};
use crate::tx::{Tx, fetch_one, fetch_optional, statements};

/// Versions that are under legal hold.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct HeldVersions {
    /// How many.
    #[sqlx(try_from = "i64")]
    pub count: u64,
    /// The app of the first one.
    #[sqlx(try_from = "String")]
    pub app: AppName,
    /// The first one.
    #[sqlx(try_from = "String")]
    pub version: VersionName,
}

// What was purged has nothing left to hold. Holds in an app that was deleted can't be lifted by anybody.
macro_rules! held {
    ($scope:literal) => {
        concat!(
            "SELECT COUNT(*) OVER () AS count, a.name AS app, v.name AS version
            FROM version v JOIN app a ON a.id = v.app_id
            WHERE v.legal_hold AND v.state <> 'purged' AND a.state <> 'deleted' AND ",
            $scope,
            " ORDER BY a.name, v.created_at, v.id LIMIT 1"
        )
    };
}

statements! {
    IN_APP = held!("a.id = $1");
    IN_PROJECT = held!("a.project_id = $1");
    KEEP_PROJECT_POSTGRES = "SELECT id FROM project WHERE id = $1 FOR SHARE";
}

impl Tx {
    /// The versions of an app that are under legal hold, if there are any. In a transaction that has locked the app
    /// none is added.
    pub async fn held_in_app(&mut self, app: AppId) -> Result<Option<HeldVersions>, StoreError> {
        fetch_optional!(self, HeldVersions, IN_APP, app)
    }

    /// The versions of a project's apps that are under legal hold, if there are any; not of deleted apps.
    pub async fn held_in_project(&mut self, project: ProjectId) -> Result<Option<HeldVersions>, StoreError> {
        fetch_optional!(self, HeldVersions, IN_PROJECT, project)
    }

    /// Keeps a project from being deleted until the transaction ends. Whoever puts one of its versions under legal hold
    /// does this before it looks whether the project is still there.
    pub async fn keep_project(&mut self, project: ProjectId) -> Result<(), StoreError> {
        match self {
            // The single writer is lock enough.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => fetch_one!(self, (ProjectId,), KEEP_PROJECT_POSTGRES, project).map(drop),
        }
    }
}
