//! Apps.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::{Code, Permission};

use kkartifact_model::api::page::Page;
use kkartifact_model::api::project::{App, Lifecycle, LifecycleChange, NewApp};
use kkartifact_service::http::extract::{Json, Paging};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, AuthorizedProject, Caller, Resources};
use kkartifact_store::{AppRow, NewAudit, Outcome, Tx};

use super::project::{apply, check_description, held, taken};

pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    project: AuthorizedProject,
    Paging(page): Paging,
) -> ApiResult<Json<Page<App>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_apps(&caller.grants().reach(Permission::View), project.id, page).await?))
}

pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    project: AuthorizedProject,
    Json(new): Json<NewApp>,
) -> ApiResult<(StatusCode, Json<App>)> {
    check_description(&new.description)?;
    if project.state != Lifecycle::Active {
        let message = format!("project {} is archived and takes no new apps", project.name);
        return Err(ApiError::new(Code::Archived, message));
    }
    let mut tx = resources.db.begin().await?;
    if !tx.insert_app(project.id, &new.name, &new.description, resources.clock.now()).await? {
        return Err(taken(&format!("app {}/{}", project.name, new.name)));
    }
    let row = tx.find_app(&project.name, &new.name).await?;
    let row = row.ok_or_else(|| ApiError::internal("the app vanished"))?;
    audit(&mut tx, &resources, &caller, "app.create", &row).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(row.into())))
}

async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    action: &str,
    row: &AppRow,
) -> ApiResult<()> {
    let audit = NewAudit {
        action,
        project: Some(row.project.as_str()),
        app: Some(row.name.as_str()),
        detail: serde_json::json!({ "state": row.state }),
        ..NewAudit::default()
    };
    Ok(tx.audit(&caller.actor(), Outcome::Done, &audit, resources.clock.now()).await?)
}

pub(crate) async fn get(app: AuthorizedApp) -> Json<App> {
    Json((*app).clone().into())
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    Json(change): Json<LifecycleChange>,
) -> ApiResult<Json<App>> {
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    // As it is now: the body may have taken its time.
    let app = AuthorizedApp::load(&mut tx, &caller, Permission::Admin, &app.project, &app.name).await?;
    let mut row = (*app).clone();
    apply(&change, &mut row.description, &mut row.state)?;
    tx.update_app(row.id, &row.description, row.state).await?;
    audit(&mut tx, &resources, &caller, "app.update", &row).await?;
    tx.commit().await?;
    Ok(Json(row.into()))
}

/// Tombstones an app: its versions are gone for callers, and some time later their bytes; its name stays taken. Not
/// while a version is under legal hold, which nobody could lift any more.
pub(crate) async fn delete(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
) -> ApiResult<StatusCode> {
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    // As it is now: somebody else may have been faster.
    let app = AuthorizedApp::load(&mut tx, &caller, Permission::Admin, &app.project, &app.name).await?;
    if let Some(versions) = tx.held_in_app(app.id).await? {
        return Err(held(&format!("app {}/{}", app.project, app.name), &versions));
    }
    tx.delete_app(app.id, resources.clock.now()).await?;
    let mut row = (*app).clone();
    row.state = Lifecycle::Deleted;
    audit(&mut tx, &resources, &caller, "app.delete", &row).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
