//! `POST /upload/init`: opens an upload, or says that there is nothing to do.

use std::collections::HashSet;

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::upload::{Base, UploadInit, UploadOpened};
use kkartifact_model::api::version::VersionState;
use kkartifact_model::{Code, TreePath, VersionName, VersionRef, failpoint};
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources, lifecycle};
use kkartifact_store::{NewUpload, Tx, VersionId, VersionRow};
use uuid::Uuid;

pub(crate) async fn init(
    State(resources): State<Resources>,
    caller: Caller,
    Json(init): Json<UploadInit>,
) -> ApiResult<(StatusCode, Json<UploadOpened>)> {
    check(&resources, &init)?;
    let now = resources.clock.now();
    let policy = resources.config.upload.create_on_push;
    let mut tx = resources.db.begin().await?;
    let app = AuthorizedApp::load_or_create(&mut tx, &caller, policy, &init.project, &init.app, now).await?;
    app.require_active()?;
    tx.lock_app(app.id).await?;

    if let Some(row) = existing(&mut tx, &app, &init).await? {
        if matches!(row.state, VersionState::Deleted | VersionState::Archived) {
            lifecycle::restore(&mut tx, &app, &row, &caller.actor(), now).await?;
        }
        let version = tx.version(row.id).await?.ok_or_else(|| ApiError::internal("a version vanished"))?;
        let version = Box::new(tx.describe_version(version).await?);
        tx.commit().await?;
        resources.jobs_queued.notify_waiters();
        return Ok((StatusCode::OK, Json(UploadOpened::Published { version })));
    }

    let base = match &init.base {
        Some(base) => find_base(&mut tx, &app, base).await?,
        None => None,
    };
    let upload_id = Uuid::new_v4();
    let expires_at = resources.upload_end();
    let new = NewUpload {
        id: upload_id,
        app: app.id,
        version: &init.version,
        principal: caller.principal,
        principal_name: &caller.name,
        tree_digest: init.tree_digest,
        base,
        build: &init.build,
        agent: init.agent.as_ref(),
        expires_at,
    };
    tx.insert_upload(&new, now).await?;
    let missing = expect_files(&mut tx, upload_id, &init).await?;
    tx.commit().await?;
    failpoint::reach("upload.opened");
    let opened = UploadOpened::Open { upload_id, expires_at, base: base.is_some(), missing };
    Ok((StatusCode::CREATED, Json(opened)))
}

fn check(resources: &Resources, init: &UploadInit) -> ApiResult<()> {
    let longer = |text: &Option<String>, most| text.as_ref().is_some_and(|text| text.len() > most);
    if longer(&init.build.git_commit, 64) || longer(&init.build.builder, 200) {
        return Err(ApiError::invalid("git_commit has at most 64 bytes, builder 200"));
    }
    if init.agent.as_ref().is_some_and(|agent| agent.id.len() > 64 || agent.host.len() > 255) {
        return Err(ApiError::invalid("agent.id has at most 64 bytes, agent.host 255"));
    }
    let limit = resources.config.upload.put_files as usize;
    if init.files.as_ref().is_some_and(|files| files.len() > limit) {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("at most {limit} files can be put one by one; push larger trees with the agent"),
        ));
    }
    Ok(())
}

/// The version, if it exists with the announced content. An error if it exists with other content.
async fn existing(tx: &mut Tx, app: &AuthorizedApp, init: &UploadInit) -> ApiResult<Option<VersionRow>> {
    let found = tx.find_version(app.id, &VersionRef::Name(init.version.clone())).await?;
    match (found, init.tree_digest) {
        (Some(row), Some(tree)) if row.tree_digest != tree => Err(exists(&init.version)),
        (Some(row), Some(_)) if row.state == VersionState::Quarantined => {
            let message = format!("version {} is quarantined; push under another name", init.version);
            Err(ApiError::new(Code::VersionQuarantined, message))
        }
        // Collected content has to be sent again.
        (Some(row), Some(_)) if row.state != VersionState::Purged => Ok(Some(row)),
        // Without a digest only finish can tell.
        _ => Ok(None),
    }
}

/// The refusal where a version's name is taken.
pub(super) fn exists(version: &VersionName) -> ApiError {
    ApiError::new(
        Code::VersionExists,
        format!("version {version} exists with other content; versions never change, so choose another name"),
    )
}

/// The base, if both sides know the same manifest of it.
async fn find_base(tx: &mut Tx, app: &AuthorizedApp, base: &Base) -> ApiResult<Option<VersionId>> {
    let found = tx.find_version(app.id, &VersionRef::Name(base.version.clone())).await?;
    let usable = found
        .filter(|row| row.state == VersionState::Published && row.manifest_digest == base.manifest_digest);
    Ok(usable.map(|row| row.id))
}

async fn expect_files(tx: &mut Tx, upload: Uuid, init: &UploadInit) -> ApiResult<Vec<TreePath>> {
    let (mut missing, mut seen) = (Vec::new(), HashSet::new());
    for file in init.files.iter().flatten() {
        if !seen.insert(&file.path) {
            return Err(ApiError::new(Code::InvalidManifest, format!("{} is listed twice", file.path)));
        }
        tx.expect_upload_file(upload, &file.path, &file.sha256, file.size).await?;
        missing.push(file.path.clone());
    }
    Ok(missing)
}
