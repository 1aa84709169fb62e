//! Role bindings: who has which permissions where.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::role_binding::{NewRoleBinding, RoleBinding, Subject};
use kkartifact_model::{AppName, Code, Permission, ProjectName};
use kkartifact_service::http::extract::{BindingId, Json, Paging};
use kkartifact_service::{ApiError, ApiResult, Caller, Object, Resources};
use kkartifact_store::{BindingSubject, NewAudit, Outcome, PrincipalId, Tx};
use serde_json::json;

use super::scope::resolve;
use super::{service_account, trust_policy, user};

/// The bindings where the caller is admin.
pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    Paging(page): Paging,
) -> ApiResult<Json<Page<RoleBinding>>> {
    let mut tx = resources.db.read().await?;
    let reach = caller.grants().reach(Permission::Admin);
    Ok(Json(tx.list_bindings(&reach, page).await?))
}

/// Gives somebody what the caller has, where the caller is admin.
pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewRoleBinding>,
) -> ApiResult<(StatusCode, Json<RoleBinding>)> {
    if new.permissions.is_empty() {
        return Err(ApiError::invalid("permissions is empty; a role needs at least one"));
    }
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    // As they are now: the body may have taken its time.
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    let (project, app) = resolve(&mut tx, &caller, Permission::Admin, &new.scope).await?;
    if !caller.holds(new.permissions, project, app) {
        let message = "nobody can give what they don't have";
        return Err(ApiError::new(Code::Forbidden, message).as_refusal());
    }
    let principal = principal(&mut tx, &new.subject).await?;
    let subject = match (&new.subject, principal) {
        (Subject::Group(group), _) => BindingSubject::Group(group),
        (_, Some(id)) => BindingSubject::Principal(id),
        (_, None) => return Err(ApiError::internal("the subject has no principal")),
    };
    let id = tx.insert_binding(subject, new.permissions, project, app, now).await?;
    let row = tx.find_binding(id).await?.ok_or_else(|| ApiError::internal("the binding vanished"))?;
    let binding = RoleBinding::from(row);
    audit(&mut tx, &resources, &caller, "role_binding.create", &binding).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(binding)))
}

async fn principal(tx: &mut Tx, subject: &Subject) -> ApiResult<Option<PrincipalId>> {
    Ok(match subject {
        Subject::User(login) => Some(user::find(tx, login).await?.principal_id),
        Subject::ServiceAccount(client) => Some(service_account::find(tx, client).await?.principal_id),
        Subject::TrustPolicy(name) => Some(trust_policy::find(tx, name).await?.principal_id),
        Subject::Group(group) => {
            if group.is_empty() || group.len() > 200 || group.chars().any(char::is_control) {
                return Err(ApiError::invalid("a group has 1 to 200 bytes and no control characters"));
            }
            None
        }
    })
}

async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    action: &str,
    binding: &RoleBinding,
) -> ApiResult<()> {
    let row = NewAudit {
        action,
        project: binding.scope.project.as_ref().map(ProjectName::as_str),
        app: binding.scope.app.as_ref().map(AppName::as_str),
        detail: json!({ "id": binding.id, "subject": binding.subject, "permissions": binding.permissions }),
        ..NewAudit::default()
    };
    Ok(tx.audit(&caller.actor(), Outcome::Done, &row, resources.clock.now()).await?)
}

/// Takes a role away. It is gone on the next request of whoever had it.
pub(crate) async fn delete(
    State(resources): State<Resources>,
    caller: Caller,
    BindingId(id): BindingId,
) -> ApiResult<StatusCode> {
    let hidden = || ApiError::not_found(&format!("role binding {}", id.0));
    let mut tx = resources.db.begin().await?;
    let caller = resources.auth.again(&mut tx, &caller, resources.clock.now()).await?;
    let row = tx.find_binding(id).await?.ok_or_else(hidden)?;
    let object = Object::of(row.binding.project_id, row.binding.app_id);
    if !caller.grants().permissions(object).contains(Permission::Admin) {
        return Err(hidden().as_refusal());
    }
    tx.delete_binding(id).await?;
    audit(&mut tx, &resources, &caller, "role_binding.delete", &row.into()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
