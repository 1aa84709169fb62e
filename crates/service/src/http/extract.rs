//! Extractors that refuse in our words: one typed parse, at the edge.

use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use kkartifact_model::Code;
use kkartifact_model::api::page::{DEFAULT_LIMIT, MAX_LIMIT};
use kkartifact_store::{Cursor, PageQuery};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ApiResult};

/// A JSON body in, a JSON body out.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let kind = request.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json =
            kind.is_some_and(|kind| kind.split(';').next().unwrap_or("").trim() == "application/json");
        if !is_json {
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                "send JSON with 'Content-Type: application/json'",
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|error| body_error(&error))?;
        // A struct would take an array for its fields one by one.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(ApiError::invalid("body: send a JSON object"));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| ApiError::invalid(format!("body: {error}")))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A whole small body.
#[derive(Debug)]
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        Bytes::from_request(request, state).await.map(Self).map_err(|error| body_error(&error))
    }
}

/// Why a body could not be read.
fn body_error(error: &BytesRejection) -> ApiError {
    match error {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            ApiError::new(Code::TooLarge, "the body is larger than this route takes")
        }
        _ => ApiError::new(Code::RequestTimeout, "the body did not arrive whole"),
    }
}

/// Query parameters.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        // What is not UTF-8 would be replaced, and name something else.
        if percent_decode_str(parts.uri.query().unwrap_or_default()).decode_utf8().is_err() {
            return Err(ApiError::invalid("the query has bytes that are not UTF-8"));
        }
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|query| Self(query.0))
            .map_err(|error| ApiError::invalid(format!("query: {}", cause(&error))))
    }
}

/// The innermost reason: the outer ones only say that there is one.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A path parameter, parsed by its type. For paths with a single one of its kind; names that the gate has
/// checked come from it.
pub async fn path_param<T>(parts: &mut Parts, name: &str) -> ApiResult<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let params = axum::extract::RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| ApiError::invalid("the path has bytes that are not UTF-8"))?;
    let text = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    let text = text.ok_or_else(|| ApiError::internal(format!("the path has no {name}")))?;
    text.parse().map_err(|error: T::Err| ApiError::new(Code::InvalidName, error.to_string()))
}

macro_rules! path_type {
    ($(#[$doc:meta])* $name:ident, $type:ty, $param:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(pub $type);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
                path_param(parts, $param).await.map(Self)
            }
        }
    };
}

path_type!(
    /// `{version}` where any way to name a version is good: for reading.
    AnyVersion, kkartifact_model::VersionRef, "version"
);
path_type!(
    /// `{version}` where only its name is: for changing.
    NamedVersion, kkartifact_model::VersionName, "version"
);
path_type!(
    /// `{channel}`
    NamedChannel, kkartifact_model::ChannelName, "channel"
);
path_type!(
    /// `{token}`: the public part of a token.
    NamedToken, kkartifact_model::token::TokenId, "token"
);
path_type!(
    /// `{user}`: a login.
    NamedUser, String, "user"
);
path_type!(
    /// `{client}`: the client id of a service account.
    ClientId, String, "client"
);
path_type!(
    /// `{policy}`: the name of a trust policy.
    PolicyName, String, "policy"
);
path_type!(
    /// `{key}`: the id of a signing key.
    KeyId, String, "key"
);
path_type!(
    /// `{session}`
    SessionId, uuid::Uuid, "session"
);
path_type!(
    /// `{upload}`
    UploadId, uuid::Uuid, "upload"
);

/// `{binding}`: a role binding.
#[derive(Debug)]
pub struct BindingId(pub kkartifact_store::RoleBindingId);

impl<S: Send + Sync> FromRequestParts<S> for BindingId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        path_param::<i64>(parts, "binding").await.map(|id| Self(kkartifact_store::RoleBindingId(id)))
    }
}

/// Which page of a list: `limit`, `offset` or `cursor`.
#[derive(Debug)]
pub struct Paging(pub PageQuery);

#[derive(Deserialize)]
struct PagingParams {
    limit: Option<u32>,
    offset: Option<u64>,
    cursor: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Query(params) = Query::<PagingParams>::from_request_parts(parts, state).await?;
        let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {MAX_LIMIT}")));
        }
        let after = match params.cursor {
            None => Cursor::START,
            Some(_) if params.offset.is_some() => {
                return Err(ApiError::invalid("give offset or cursor, not both"));
            }
            Some(text) => Cursor::decode(&text)
                .ok_or_else(|| ApiError::invalid("cursor is not one that a list has answered"))?,
        };
        Ok(Self(PageQuery { limit, offset: params.offset.unwrap_or(0), after }))
    }
}
