//! Projects and apps that the caller may act on. Nothing else makes these types, so a handler that has one
//! can't have forgotten to ask.

use std::ops::Deref;

use axum::extract::FromRequestParts;
use chrono::{DateTime, Utc};
use http::request::Parts;
use kkartifact_model::api::project::Lifecycle;
use kkartifact_model::{AppName, Code, Permission, ProjectName};
use kkartifact_store::{AppRow, NewAudit, Outcome, ProjectRow, Tx};

use super::caller::Caller;
use super::grants::Object;
use crate::config::CreateOnPush;
use crate::error::{ApiError, ApiResult};

/// A project on which the caller has the permission that was asked for.
#[derive(Debug, Clone)]
pub struct AuthorizedProject(ProjectRow);

/// An app on which the caller has the permission that was asked for.
#[derive(Debug, Clone)]
pub struct AuthorizedApp(AppRow);

impl AuthorizedProject {
    /// The project, if the caller has the permission on it as a whole. To view it, any binding in it is enough.
    pub async fn load(
        tx: &mut Tx,
        caller: &Caller,
        permission: Permission,
        name: &ProjectName,
    ) -> ApiResult<Self> {
        let hidden = || ApiError::not_found(&format!("project {name}"));
        let row = tx.find_project(name).await?.ok_or_else(hidden)?;
        if row.state == Lifecycle::Deleted {
            return Err(hidden());
        }
        if !caller.grants().sees_project(row.id) {
            return Err(hidden().as_refusal_in(name, None));
        }
        let allowed = permission == Permission::View
            || caller.grants().permissions(Object::Project(row.id)).contains(permission);
        if allowed { Ok(Self(row)) } else { Err(Caller::lacks(permission).as_refusal_in(name, None)) }
    }
}

impl AuthorizedApp {
    /// The app, if the caller has the permission on it.
    pub async fn load(
        tx: &mut Tx,
        caller: &Caller,
        permission: Permission,
        project: &ProjectName,
        name: &AppName,
    ) -> ApiResult<Self> {
        let hidden = || ApiError::not_found(&format!("app {project}/{name}"));
        let row = tx.find_app(project, name).await?.filter(AppRow::exists).ok_or_else(hidden)?;
        let permissions = caller.grants().permissions(Object::App(row.project_id, row.id));
        if !permissions.contains(Permission::View) {
            return Err(hidden().as_refusal_in(project, Some(name)));
        }
        if permissions.contains(permission) {
            return Ok(Self(row));
        }
        Err(Caller::lacks(permission).as_refusal_in(project, Some(name)))
    }
}

impl AuthorizedApp {
    /// The app for a push, which may create it (and its project) where the caller and the configuration let it.
    pub async fn load_or_create(
        tx: &mut Tx,
        caller: &Caller,
        policy: CreateOnPush,
        project: &ProjectName,
        name: &AppName,
        now: DateTime<Utc>,
    ) -> ApiResult<Self> {
        if tx.find_app(project, name).await?.is_some() {
            return Self::load(tx, caller, Permission::Push, project, name).await;
        }
        let hidden = || ApiError::not_found(&format!("app {project}/{name}"));
        let creator = match policy {
            CreateOnPush::Push => Permission::Push,
            CreateOnPush::Admin => Permission::Admin,
            CreateOnPush::Never => return Err(hidden()),
        };
        let found = tx.find_project(project).await?;
        let object = found.as_ref().map_or(Object::Global, |row| Object::Project(row.id));
        if !caller.grants().permissions(object).contains(creator) {
            return Err(hidden().as_refusal_in(project, Some(name)));
        }
        let row = match found {
            Some(row) if row.state == Lifecycle::Active => row,
            Some(row) if row.state == Lifecycle::Deleted => return Err(hidden()),
            Some(row) => return Err(closed(&format!("project {project}"), row.state)),
            None => match tx.insert_project(project, "", now).await? {
                Some(row) => {
                    let audit = NewAudit {
                        action: "project.create",
                        project: Some(project.as_str()),
                        ..NewAudit::default()
                    };
                    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
                    row
                }
                // Somebody else has just made it.
                None => tx.find_project(project).await?.ok_or_else(hidden)?,
            },
        };
        if !tx.insert_app(row.id, name, "", now).await? {
            return Self::load(tx, caller, Permission::Push, project, name).await;
        }
        let (project_name, app_name) = (Some(project.as_str()), Some(name.as_str()));
        let audit =
            NewAudit { action: "app.create", project: project_name, app: app_name, ..NewAudit::default() };
        tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
        Self::load(tx, caller, Permission::Push, project, name).await
    }

    /// Requires that the app takes new versions.
    pub fn require_active(&self) -> ApiResult<()> {
        let name = format!("app {}/{}", self.project, self.name);
        match (self.project_state, self.state) {
            (Lifecycle::Active, Lifecycle::Active) => Ok(()),
            (Lifecycle::Active, state) => Err(closed(&name, state)),
            (state, _) => Err(closed(&format!("project {}", self.project), state)),
        }
    }
}

fn closed(what: &str, state: Lifecycle) -> ApiError {
    ApiError::new(Code::Archived, format!("{what} is {state} and takes no new versions"))
}

impl Deref for AuthorizedProject {
    type Target = ProjectRow;
    fn deref(&self) -> &ProjectRow {
        &self.0
    }
}

impl Deref for AuthorizedApp {
    type Target = AppRow;
    fn deref(&self) -> &AppRow {
        &self.0
    }
}

macro_rules! from_gate {
    ($name:ident) => {
        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
                // Put there by the gate, for routes whose path names one.
                let found = parts.extensions.get::<Self>().cloned();
                found.ok_or_else(|| ApiError::internal(concat!("the route has no ", stringify!($name))))
            }
        }
    };
}

from_gate!(AuthorizedProject);
from_gate!(AuthorizedApp);
