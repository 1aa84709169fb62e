//! The gate before every handler: who calls, may they, and for how long.

use axum::extract::{FromRequestParts as _, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use kkartifact_model::{AppName, Code, ProjectName};

use super::context::RequestContext;
use super::drain::Draining;
use crate::auth::{AuthorizedApp, AuthorizedProject};
use crate::error::{ApiError, ApiResult};
use crate::resources::Resources;
use crate::routes::{Access, Route, Scope};

/// Lets a request through to its handler, or answers in its place.
pub(crate) async fn admit(
    State((resources, route)): State<(Resources, &'static Route)>,
    request: Request,
    next: Next,
) -> Response {
    let request = request.map(Draining::around);
    let admitted = match prepare(&resources, route, request).await {
        Ok(request) => next.run(request),
        Err(error) => return error.into_response(),
    };
    if route.body.is_none() {
        // A stream may take as long as bytes flow; who reads it watches that.
        return admitted.await;
    }
    match tokio::time::timeout(route.timeout, admitted).await {
        Ok(response) => response,
        Err(_) => {
            ApiError::unavailable("this took too long; try again", "the handler timed out").into_response()
        }
    }
}

async fn prepare(resources: &Resources, route: &'static Route, request: Request) -> ApiResult<Request> {
    let (mut parts, body) = request.into_parts();
    let context = RequestContext::from_request_parts(&mut parts, &()).await?;
    drop(context.seen.route.set(route.name.clone()));
    parts.extensions.insert(route);
    if route.access == Access::Public {
        return Ok(Request::from_parts(parts, body));
    }

    let caller = resources.auth.authenticate(resources, &parts.headers, &context).await?;
    drop(context.seen.principal.set(caller.name.clone()));
    match route.access {
        Access::Needs(permission, Scope::Global) => caller.require_global(permission)?,
        Access::Needs(permission, Scope::Path) => {
            let names = RawPathParams::from_request_parts(&mut parts, &()).await;
            let names = names.map_err(|_| ApiError::invalid("the path has bytes that are not UTF-8"))?;
            let find = |key: &str| names.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
            let project: ProjectName = name(find("project"))?;
            let mut tx = resources.db.read().await?;
            if let Some(app) = find("app") {
                let app: AppName = name(Some(app))?;
                let app = AuthorizedApp::load(&mut tx, &caller, permission, &project, &app).await?;
                parts.extensions.insert(app);
            } else {
                let project = AuthorizedProject::load(&mut tx, &caller, permission, &project).await?;
                parts.extensions.insert(project);
            }
            tx.commit().await?;
        }
        Access::Needs(_, Scope::Body) | Access::SignedIn | Access::Public => {}
    }
    parts.extensions.insert(caller);
    Ok(Request::from_parts(parts, body))
}

fn name<N: std::str::FromStr<Err = kkartifact_model::name::InvalidName>>(text: Option<&str>) -> ApiResult<N> {
    let text = text.ok_or_else(|| ApiError::internal("the path lacks a name that its scope needs"))?;
    text.parse().map_err(|error: kkartifact_model::name::InvalidName| {
        ApiError::new(Code::InvalidName, error.to_string())
    })
}
