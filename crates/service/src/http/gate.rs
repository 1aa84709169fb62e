//! The gate before every handler: who calls, may they, how often, and for how long.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use kkartifact_model::{AppName, Code, Permission, ProjectName};

use super::context::RequestContext;
use super::drain::Draining;
use super::watch::{Admission, Watched};
use crate::audit::{Deed, Tally};
use crate::auth::{AuthorizedApp, AuthorizedProject};
use crate::error::{ApiError, ApiResult, Refused};
use crate::resources::Resources;
use crate::routes::{Access, Route, Scope};

/// All that a temporary password opens.
const WITH_A_TEMPORARY_PASSWORD: [&str; 3] = ["whoami", "logout", "password.change"];

/// Lets a request through to its handler, or answers in its place.
pub(crate) async fn admit(
    State((resources, route)): State<(Resources, &'static Route)>,
    request: Request,
    next: Next,
) -> Response {
    let request = request.map(Draining::around);
    let (mut parts, body) = request.into_parts();
    let mut deed = Deed::new(route);
    let admission = match prepare(&resources, route, &mut parts, &mut deed).await {
        Ok(admission) => admission,
        Err(error) => return noted(&resources.tally, deed, error.into_response()),
    };
    let body = match &admission {
        // Bodies that a handler holds whole have a time-out.
        Some(admission) if route.body.is_none() => Watched::around(body, admission),
        _ => body,
    };
    let admitted = next.run(Request::from_parts(parts, body));
    let response = if route.body.is_none() {
        // A stream may take as long as bytes flow; who reads it watches that.
        admitted.await
    } else {
        tokio::time::timeout(route.timeout, admitted).await.unwrap_or_else(|_| {
            ApiError::unavailable("this took too long; try again", "the handler timed out").into_response()
        })
    };
    let response = noted(&resources.tally, deed, response);
    match admission {
        Some(admission) => response.map(|body| Watched::around(body, &admission)),
        None => response,
    }
}

/// Counts refusals, and reads of content, for the audit log.
fn noted(tally: &Tally, mut deed: Deed, response: Response) -> Response {
    if let Some(refused) = response.extensions().get::<Refused>() {
        deed.refused(refused);
        let code = response.extensions().get::<Code>().copied().unwrap_or(Code::Unauthenticated);
        tally.refused(deed, code);
    } else if deed.reads_content() && response.status().is_success() {
        tally.read(deed);
    }
    response
}

async fn prepare(
    resources: &Resources,
    route: &'static Route,
    parts: &mut Parts,
    deed: &mut Deed,
) -> ApiResult<Option<Arc<Admission>>> {
    let context = RequestContext::from_request_parts(parts, &()).await?;
    drop(context.seen.route.set(route.name.clone()));
    parts.extensions.insert(route);
    deed.came_from(&context);
    if route.access == Access::Public {
        return Ok(None);
    }

    let caller = resources.auth.authenticate(resources, &parts.method, &parts.headers, &context).await?;
    drop(context.seen.principal.set(caller.name.clone()));
    deed.by(&caller);
    if caller.must_change_password && !WITH_A_TEMPORARY_PASSWORD.contains(&route.name.as_str()) {
        let message = "your password is a temporary one; change it first (PUT /api/v1/password)";
        return Err(ApiError::new(Code::PasswordChangeRequired, message).as_refusal());
    }
    let names = match route.access {
        Access::Needs(permission, Scope::Global) => {
            caller.require_global(permission)?;
            None
        }
        Access::Needs(_, Scope::Path) => Some(names(parts, deed).await?),
        Access::Needs(_, Scope::Body) | Access::SignedIn | Access::Public => None,
    };
    let admission = Admission { resources: resources.clone(), route, caller, names };
    if let Access::Needs(permission, Scope::Path) = route.access {
        load(&admission, permission, parts).await?;
    }
    parts.extensions.insert(admission.caller.clone());
    Ok(Some(Arc::new(admission)))
}

/// What the path names.
async fn names(parts: &mut Parts, deed: &mut Deed) -> ApiResult<(ProjectName, Option<AppName>)> {
    let names = RawPathParams::from_request_parts(parts, &()).await;
    let names = names.map_err(|_| ApiError::invalid("the path has bytes that are not UTF-8"))?;
    let find = |key: &str| names.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
    let project: ProjectName = name(find("project"))?;
    let app = find("app").map(|app| name::<AppName>(Some(app))).transpose()?;
    deed.to(&project, app.as_ref(), find("version"));
    Ok((project, app))
}

/// Puts what the path names where the handler finds it, if the caller has the permission.
async fn load(admission: &Admission, permission: Permission, parts: &mut Parts) -> ApiResult<()> {
    let Some((project, app)) = &admission.names else { return Ok(()) };
    let mut tx = admission.resources.db.read().await?;
    if let Some(app) = app {
        let app = AuthorizedApp::load(&mut tx, &admission.caller, permission, project, app).await?;
        parts.extensions.insert(app);
    } else {
        let project = AuthorizedProject::load(&mut tx, &admission.caller, permission, project).await?;
        parts.extensions.insert(project);
    }
    Ok(tx.commit().await?)
}

fn name<N: std::str::FromStr<Err = kkartifact_model::name::InvalidName>>(text: Option<&str>) -> ApiResult<N> {
    let text = text.ok_or_else(|| ApiError::internal("the path lacks a name that its scope needs"))?;
    text.parse().map_err(|error: kkartifact_model::name::InvalidName| {
        ApiError::new(Code::InvalidName, error.to_string())
    })
}
