//! The way in, and who one is.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::access::{Bootstrap, CreatedToken, WhoAmI};
use kkartifact_service::http::context::RequestContext;
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiError, ApiResult, Caller, Resources, bootstrap as way_in};

pub(crate) async fn bootstrap(
    State(resources): State<Resources>,
    context: RequestContext,
    Json(bootstrap): Json<Bootstrap>,
) -> ApiResult<(StatusCode, Json<CreatedToken>)> {
    super::token::check_name(&bootstrap.token_name)?;
    let address = context.address.map(|address| address.ip().to_string());
    let token =
        way_in::spend(&resources, &bootstrap.secret, &bootstrap.token_name, address, context.id).await?;
    let mut tx = resources.db.read().await?;
    let row = tx.find_token(token.id()).await?.ok_or_else(|| ApiError::internal("the token vanished"))?;
    let info = tx.token_info(row).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token: token.reveal(resources.auth.key()), info })))
}

pub(crate) async fn whoami(caller: Caller) -> Json<WhoAmI> {
    Json(caller.describe())
}
