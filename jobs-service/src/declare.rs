//! Webhooks and the rule of retention that stand in the configuration: at the start they are made to be as it says.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::project::Lifecycle;
use kkartifact_model::api::retention::SETTING;
use kkartifact_model::api::webhook::WebhookFormat;
use kkartifact_model::{AppName, ProjectName};
use kkartifact_service::config::DeclaredWebhook;
use kkartifact_service::webhook::{self, Endpoint, Secrets, check};
use kkartifact_service::{ApiError, ApiResult, Resources};
use kkartifact_store::{Actor, AppId, AppRow, NewAudit, NewWebhookRow, Outcome, ProjectId, Tx, WebhookRow};
use uuid::Uuid;

/// For how long a secret that was replaced signs too.
const OVERLAP: TimeDelta = TimeDelta::hours(24);

/// A webhook's project and app, where it is of one.
type Place = (Option<ProjectId>, Option<AppId>);

/// A webhook as the configuration wants it.
struct Wanted<'a> {
    declared: &'a DeclaredWebhook,
    format: WebhookFormat,
    secret: Option<String>,
}

/// Sets the rule of retention, if the configuration has one. Doing it again changes nothing.
pub(crate) async fn retention(resources: &Resources) -> ApiResult<()> {
    let Some(wanted) = resources.config.retention else { return Ok(()) };
    let detail = serde_json::to_value(wanted).map_err(ApiError::internal)?;
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    if tx.setting(SETTING).await?.as_ref() == Some(&detail) {
        return Ok(());
    }
    tx.put_setting(SETTING, &detail, now).await?;
    let audit = NewAudit { action: "retention.set", detail, ..NewAudit::default() };
    let actor = Actor::system("configuration", resources.auth.audit_key());
    tx.audit(&actor, Outcome::Done, &audit, now).await?;
    Ok(tx.commit().await?)
}

/// Makes the declared webhooks be as the configuration says, and removes those that no longer stand there. Doing it
/// again changes nothing.
pub(crate) async fn webhooks(resources: &Resources) -> ApiResult<()> {
    let mut wanted = Vec::new();
    for declared in &resources.config.webhooks.declared {
        wanted.push(read(declared).await?);
    }
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let mut standing = BTreeSet::new();
    for one in &wanted {
        if let Some(place) = place(&mut tx, one.declared).await? {
            standing.insert(apply(&mut tx, resources, one, place, now).await?);
        } else {
            tracing::warn!(
                webhook = one.declared.name,
                project = one.declared.project,
                app = one.declared.app,
                "a webhook of the configuration is for a project or app that does not exist; it is left out"
            );
        }
    }
    let mut fallen = Vec::new();
    for row in tx.declared_webhooks().await? {
        if !standing.contains(&row.seq) {
            tx.disable_webhook(row.seq, "it no longer stands in the configuration", None, now).await?;
            audit(&mut tx, resources, "webhook.delete", &row, now).await?;
            fallen.push(row.seq);
        }
    }
    tx.commit().await?;
    for seq in fallen {
        webhook::remove(&resources.db, seq).await?;
    }
    Ok(())
}

/// Reads what the configuration only points to.
async fn read(declared: &DeclaredWebhook) -> ApiResult<Wanted<'_>> {
    let wrong = |why: String| ApiError::internal(format!("webhooks.declared {:?}: {why}", declared.name));
    let format = declared.format.as_deref().map_or(Ok(WebhookFormat::Standard), str::parse);
    let format = format.map_err(|error| wrong(error.to_string()))?;
    let Some(path) = &declared.secret_file else { return Ok(Wanted { declared, format, secret: None }) };
    let secret = tokio::fs::read_to_string(path).await;
    let secret = secret.map_err(|error| wrong(format!("secret_file {}: {error}", path.display())))?;
    check::secret(format, secret.trim())
        .map_err(|why| wrong(format!("secret_file {}: {why}", path.display())))?;
    Ok(Wanted { declared, format, secret: Some(secret.trim().to_owned()) })
}

/// The rows of a webhook's scope; `None` if there are none.
async fn place(tx: &mut Tx, declared: &DeclaredWebhook) -> ApiResult<Option<Place>> {
    let Some(project) = &declared.project else { return Ok(Some((None, None))) };
    let project: ProjectName = project.parse().map_err(ApiError::internal)?;
    let Some(app) = &declared.app else {
        let row = tx.find_project(&project).await?.filter(|row| row.state != Lifecycle::Deleted);
        return Ok(row.map(|row| (Some(row.id), None)));
    };
    let app: AppName = app.parse().map_err(ApiError::internal)?;
    let row = tx.find_app(&project, &app).await?.filter(AppRow::exists);
    Ok(row.map(|row| (Some(row.project_id), Some(row.id))))
}

/// Makes or changes one webhook; its row number.
async fn apply(
    tx: &mut Tx,
    resources: &Resources,
    wanted: &Wanted<'_>,
    place: Place,
    now: DateTime<Utc>,
) -> ApiResult<i64> {
    let (declared, vault) = (wanted.declared, &resources.vault);
    let found = tx.find_webhook_named(place, &declared.name).await?;
    let id = found.as_ref().map_or_else(Uuid::new_v4, |row| row.id);
    if let Some(row) = &found
        && is_as_wanted(row, wanted, resources)
    {
        return Ok(row.seq);
    }
    let endpoint = Endpoint { url: declared.url.clone(), headers: declared.headers.clone() };
    let (url, headers) = endpoint.seal(vault, id, wanted.format)?;
    let kept = found.as_ref().and_then(|row| row.secrets.as_deref());
    // What was encrypted under another key is of no use to anybody.
    let kept = Secrets::open(vault, id, kept).unwrap_or_default();
    let secrets = match &wanted.secret {
        Some(secret) if kept.current() == Some(secret.as_str()) => kept,
        Some(secret) => kept.rotated(secret.clone(), OVERLAP, now),
        None => Secrets::default(),
    };
    let secrets = secrets.seal(vault, id)?;
    let new = NewWebhookRow {
        name: &declared.name,
        url: &url,
        format: wanted.format,
        events: &declared.events,
        headers: headers.as_deref(),
        secrets: secrets.as_deref(),
        enabled: true,
        declared: true,
    };
    let changed = if let Some(row) = &found {
        tx.update_webhook(row.seq, &new, now).await?;
        true
    } else {
        // False if another process has just done it.
        tx.insert_webhook(id, place, &new, now).await?
    };
    let row = tx.find_webhook_named(place, &declared.name).await?;
    let row = row.ok_or_else(|| ApiError::internal("a declared webhook vanished"))?;
    if changed {
        let action = if found.is_some() { "webhook.update" } else { "webhook.create" };
        audit(tx, resources, action, &row, now).await?;
    }
    Ok(row.seq)
}

/// Whether there is nothing to change. One that the server has disabled gets another chance at each start.
fn is_as_wanted(row: &WebhookRow, wanted: &Wanted<'_>, resources: &Resources) -> bool {
    let (declared, vault) = (wanted.declared, &resources.vault);
    let endpoint = Endpoint::open(vault, row.id, &row.url, row.headers.as_deref());
    let secrets = Secrets::open(vault, row.id, row.secrets.as_deref());
    row.declared
        && row.enabled
        // Neither is a chat's URL still in clear.
        && row.url == webhook::shown(wanted.format, &declared.url)
        && row.format == wanted.format
        && row.events == declared.events
        && endpoint.is_ok_and(|one| one.url == declared.url && one.headers == declared.headers)
        && secrets.is_ok_and(|secrets| secrets.current() == wanted.secret.as_deref())
}

async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    action: &str,
    row: &WebhookRow,
    now: DateTime<Utc>,
) -> ApiResult<()> {
    let scope = row.scope();
    let audit = NewAudit {
        action,
        project: scope.project.as_ref().map(ProjectName::as_str),
        app: scope.app.as_ref().map(AppName::as_str),
        detail: webhook::detail(row),
        ..NewAudit::default()
    };
    let actor = Actor::system("configuration", resources.auth.audit_key());
    Ok(tx.audit(&actor, Outcome::Done, &audit, now).await?)
}
