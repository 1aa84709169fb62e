//! What a body says of where something holds.

use kkartifact_model::Permission;
use kkartifact_model::api::access::Scope;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, AuthorizedProject, Caller};
use kkartifact_store::{AppId, ProjectId, Tx};

/// The rows of a scope, where the caller has the permission.
pub(crate) async fn resolve(
    tx: &mut Tx,
    caller: &Caller,
    permission: Permission,
    scope: &Scope,
) -> ApiResult<(Option<ProjectId>, Option<AppId>)> {
    match (&scope.project, &scope.app) {
        (None, None) => {
            caller.require_global(permission)?;
            Ok((None, None))
        }
        (Some(project), None) => {
            let project = AuthorizedProject::load(tx, caller, permission, project).await?;
            Ok((Some(project.id), None))
        }
        (Some(project), Some(app)) => {
            let app = AuthorizedApp::load(tx, caller, permission, project, app).await?;
            Ok((Some(app.project_id), Some(app.id)))
        }
        (None, Some(_)) => Err(ApiError::invalid("a scope with an app needs its project")),
    }
}
