//! Uploads as sessions: finding one's own, listing, giving up, closing those that nobody uses.

use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::upload::{Upload, UploadState};
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::{Json, Paging, UploadId};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources};
use kkartifact_store::{Actor, NewAudit, Outcome, Tx, UploadRow};
use uuid::Uuid;

/// The caller's own upload, on an app where they may still push. Somebody else's is not there.
pub(super) async fn find(tx: &mut Tx, caller: &Caller, id: Uuid) -> ApiResult<(UploadRow, AuthorizedApp)> {
    let hidden = || ApiError::not_found(&format!("upload {id}"));
    let row = tx.find_upload(id, caller.principal).await?.ok_or_else(hidden)?;
    let app = AuthorizedApp::load(tx, caller, Permission::Push, &row.project, &row.app).await?;
    Ok((row, app))
}

/// The upload of the path, open: what every call that adds to one starts from. Its end is put off.
pub(crate) struct OpenUpload {
    pub(crate) row: UploadRow,
    pub(crate) app: AuthorizedApp,
}

impl FromRequestParts<Resources> for OpenUpload {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, resources: &Resources) -> ApiResult<Self> {
        let UploadId(id) = UploadId::from_request_parts(parts, resources).await?;
        let caller = Caller::from_request_parts(parts, resources).await?;
        let mut tx = resources.db.begin().await?;
        let (row, app) = find(&mut tx, &caller, id).await?;
        keep_open(&mut tx, resources, &row).await?;
        tx.commit().await?;
        Ok(Self { row, app })
    }
}

/// Requires that an upload is open, and puts off its end.
pub(super) async fn keep_open(tx: &mut Tx, resources: &Resources, row: &UploadRow) -> ApiResult<()> {
    let open = row.is_open(resources.clock.now());
    if open && tx.touch_upload(row.id, resources.upload_end()).await? { Ok(()) } else { Err(closed(row)) }
}

/// The refusal for an upload that is over.
pub(super) fn closed(row: &UploadRow) -> ApiError {
    let how = if row.state == UploadState::Open { UploadState::Expired } else { row.state };
    ApiError::new(
        Code::UploadClosed,
        format!("upload {} is {how}; start a new one with /upload/init", row.id),
    )
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    app: AuthorizedApp,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Upload>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_uploads(app.id, page).await?))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    caller: Caller,
    UploadId(id): UploadId,
) -> ApiResult<Json<Upload>> {
    let mut tx = resources.db.read().await?;
    let (row, _) = find(&mut tx, &caller, id).await?;
    Ok(Json(row.into()))
}

pub(crate) async fn abort(
    State(resources): State<Resources>,
    caller: Caller,
    UploadId(id): UploadId,
) -> ApiResult<Json<Upload>> {
    let mut tx = resources.db.begin().await?;
    let (row, _) = find(&mut tx, &caller, id).await?;
    if !close(&mut tx, &row, UploadState::Aborted, &caller.actor(), &resources).await? {
        return Err(closed(&row));
    }
    tx.commit().await?;
    Ok(Json(Upload { state: UploadState::Aborted, ..row.into() }))
}

async fn close(
    tx: &mut Tx,
    row: &UploadRow,
    state: UploadState,
    actor: &Actor,
    resources: &Resources,
) -> ApiResult<bool> {
    let closed = tx.close_upload(row.id, state, None).await?;
    if closed {
        let audit = NewAudit {
            action: "upload.close",
            project: Some(row.project.as_str()),
            app: Some(row.app.as_str()),
            version: Some(row.version_name.as_str()),
            detail: serde_json::json!({ "upload": row.id, "state": state }),
            ..NewAudit::default()
        };
        tx.audit(actor, Outcome::Done, &audit, resources.clock.now()).await?;
    }
    Ok(closed)
}
