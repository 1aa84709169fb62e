//! Errors as callers see them, and the one place that decides what an outsider may learn.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use kkartifact_blob::BlobError;
use kkartifact_model::api::error::ErrorBody;
use kkartifact_model::manifest::{Malformed, TreeError};
use kkartifact_model::wire::BadStream;
use kkartifact_model::{AppName, Code, ProjectName};
use kkartifact_store::StoreError;

/// What a handler returns.
pub type ApiResult<T> = Result<T, ApiError>;

/// A refusal: a stable code, and a message that says what was wrong and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
    /// What the log says and the caller does not learn.
    pub cause: Option<String>,
    /// After how many seconds to try again, where it is known.
    pub retry_after: Option<u32>,
    /// Somebody was kept from something: what the audit log counts.
    pub refused: Option<Refused>,
}

/// Somebody was kept from something, perhaps of a project or app. Also in the answer, for the audit log.
#[derive(Debug, Clone, Default)]
pub struct Refused {
    /// Of this project.
    pub project: Option<String>,
    /// Of this app.
    pub app: Option<String>,
}

/// How long a caller is asked to wait before trying again.
const RETRY_AFTER_SECONDS: u32 = 2;

impl ApiError {
    /// A refusal with a message for the caller.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None, retry_after: None, refused: None }
    }

    /// The same as something for the audit log.
    #[must_use]
    pub fn as_refusal(self) -> Self {
        Self { refused: Some(Refused::default()), ..self }
    }

    /// The same as something for the audit log of a project.
    #[must_use]
    pub fn as_refusal_in(self, project: &ProjectName, app: Option<&AppName>) -> Self {
        let refused = Refused { project: Some(project.to_string()), app: app.map(ToString::to_string) };
        Self { refused: Some(refused), ..self }
    }

    /// The request is malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// It does not exist, or the caller may not know that it does.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("{what} does not exist, or your credential can't see it"))
    }

    /// A fault of ours: the caller learns nothing but the request id.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let message = "the server made a mistake; its log has the details under the request id";
        Self { cause: Some(cause.to_string()), ..Self::new(Code::Internal, message) }
    }

    /// Not now, but perhaps soon.
    pub fn unavailable(message: &str, cause: impl std::fmt::Display) -> Self {
        Self { cause: Some(cause.to_string()), ..Self::new(Code::Unavailable, message) }
    }

    /// The body of the answer.
    pub fn body(&self) -> ErrorBody {
        ErrorBody::new(self.code, self.message.clone())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(cause) = &self.cause {
            tracing::error!(code = %self.code, cause, "request failed");
        }
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        let later = [Code::TooManyRequests, Code::Unavailable, Code::StorageFull, Code::NotReady];
        if later.contains(&self.code) {
            let seconds = self.retry_after.unwrap_or(RETRY_AFTER_SECONDS);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self.code);
        if let Some(refused) = self.refused {
            response.extensions_mut().insert(refused);
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::new(Code::AlreadyExists, "something of this name exists"),
            StoreError::Unavailable(_) => Self::unavailable("the database does not answer; try again", error),
            StoreError::Unstorable(_) => {
                Self::invalid("a text has a NUL character or is too long, or a time is out of range")
            }
            StoreError::Full(_) => Self {
                cause: Some(error.to_string()),
                ..Self::new(Code::StorageFull, "the server's disk is full; nothing was changed")
            },
            other => Self::internal(other),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self {
                cause: Some(error.to_string()),
                ..Self::new(Code::StorageFull, "the server's storage is full; nothing was published")
            },
            BlobError::Io { .. } => {
                Self::unavailable("the server's storage does not answer; try again", error)
            }
            BlobError::NotFound(_) | BlobError::Damaged(..) => Self::internal(error),
        }
    }
}

impl From<TreeError> for ApiError {
    fn from(error: TreeError) -> Self {
        let code = match error {
            TreeError::TooManyEntries(_)
            | TreeError::TooManyChunks(_)
            | TreeError::TreeTooLarge(_)
            | TreeError::FileTooLarge { .. } => Code::TooLarge,
            _ => Code::InvalidManifest,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Malformed> for ApiError {
    fn from(error: Malformed) -> Self {
        Self::new(Code::InvalidManifest, error.to_string())
    }
}

impl From<BadStream> for ApiError {
    fn from(error: BadStream) -> Self {
        Self::invalid(error.to_string())
    }
}
