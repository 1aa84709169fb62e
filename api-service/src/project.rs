//! Projects.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::{Code, Permission};

use kkartifact_model::api::page::Page;
use kkartifact_model::api::project::{Lifecycle, LifecycleChange, NewProject, Project};
use kkartifact_service::http::extract::{Json, Paging};
use kkartifact_service::{ApiError, ApiResult, AuthorizedProject, Caller, Resources};
use kkartifact_store::{HeldVersions, NewAudit, Outcome, ProjectRow, Tx};

pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Project>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_projects(&caller.grants().reach(Permission::View), page).await?))
}

pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewProject>,
) -> ApiResult<(StatusCode, Json<Project>)> {
    check_description(&new.description)?;
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let row = tx.insert_project(&new.name, &new.description, now).await?;
    let row = row.ok_or_else(|| taken(&format!("project {}", new.name)))?;
    audit(&mut tx, &resources, &caller, "project.create", &row).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(row.into())))
}

/// The refusal for a name that is taken, perhaps by something deleted.
pub(crate) fn taken(what: &str) -> ApiError {
    ApiError::new(Code::AlreadyExists, format!("{what} exists, or did; names are not given out twice"))
}

pub(crate) fn check_description(text: &str) -> ApiResult<()> {
    if text.chars().count() > 1000 || text.contains('\0') {
        return Err(ApiError::invalid("a description has at most 1000 characters, and no NUL"));
    }
    Ok(())
}

async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    action: &str,
    row: &ProjectRow,
) -> ApiResult<()> {
    let detail = serde_json::json!({ "state": row.state });
    let audit = NewAudit { action, project: Some(row.name.as_str()), detail, ..NewAudit::default() };
    Ok(tx.audit(&caller.actor(), Outcome::Done, &audit, resources.clock.now()).await?)
}

pub(crate) async fn get(project: AuthorizedProject) -> Json<Project> {
    Json((*project).clone().into())
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    project: AuthorizedProject,
    Json(change): Json<LifecycleChange>,
) -> ApiResult<Json<Project>> {
    let mut tx = resources.db.begin().await?;
    // As it is now: the body may have taken its time.
    let project = AuthorizedProject::load(&mut tx, &caller, Permission::Admin, &project.name).await?;
    let mut row = (*project).clone();
    apply(&change, &mut row.description, &mut row.state)?;
    tx.update_project(row.id, &row.description, row.state).await?;
    audit(&mut tx, &resources, &caller, "project.update", &row).await?;
    tx.commit().await?;
    Ok(Json(row.into()))
}

/// Applies a change to a project or an app.
pub(crate) fn apply(
    change: &LifecycleChange,
    description: &mut String,
    state: &mut Lifecycle,
) -> ApiResult<()> {
    if let Some(text) = &change.description {
        check_description(text)?;
        text.clone_into(description);
    }
    match change.archived {
        Some(true) => *state = Lifecycle::Archived,
        Some(false) => *state = Lifecycle::Active,
        None => {}
    }
    Ok(())
}

/// The refusal to delete what has versions under legal hold.
pub(crate) fn held(what: &str, held: &HeldVersions) -> ApiError {
    let HeldVersions { count, app, version } = held;
    let which = if *count == 1 {
        format!("version {version} of app {app} is under legal hold")
    } else {
        format!("{count} versions are under legal hold, the first one is {version} of app {app}")
    };
    ApiError::new(Code::InUse, format!("{what} can't be deleted: {which}; an admin has to lift that first"))
}

/// Tombstones a project: its apps and versions are gone for callers, and some time later their bytes; its name stays
/// taken. Not while a version is under legal hold, which nobody could lift any more.
pub(crate) async fn delete(
    State(resources): State<Resources>,
    caller: Caller,
    project: AuthorizedProject,
) -> ApiResult<StatusCode> {
    let mut row = (*project).clone();
    row.state = Lifecycle::Deleted;
    let mut tx = resources.db.begin().await?;
    if !tx.delete_project(row.id, resources.clock.now()).await? {
        return Err(ApiError::not_found(&format!("project {}", row.name)));
    }
    // Only now: from here on nobody adds a hold.
    if let Some(versions) = tx.held_in_project(row.id).await? {
        return Err(held(&format!("project {}", row.name), &versions));
    }
    audit(&mut tx, &resources, &caller, "project.delete", &row).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
