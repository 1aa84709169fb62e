//! The way in, and who one is.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::access::{Bootstrap, Bootstrapped, WhoAmI};
use kkartifact_service::http::context::RequestContext;
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiResult, Caller, Resources, bootstrap as way_in};

pub(crate) async fn bootstrap(
    State(resources): State<Resources>,
    context: RequestContext,
    Json(wish): Json<Bootstrap>,
) -> ApiResult<(StatusCode, Json<Bootstrapped>)> {
    if let Some(name) = &wish.token_name {
        super::token::check_name(name)?;
    }
    let way_in::Spent { token, user } = way_in::spend(&resources, &wish, &context).await?;
    Ok((StatusCode::CREATED, Json(Bootstrapped { token, user })))
}

pub(crate) async fn whoami(caller: Caller) -> Json<WhoAmI> {
    Json(caller.describe())
}
