//! The one error body.

use serde::{Deserialize, Serialize};

use crate::Code;

/// `{"error":{"code","message"},"request_id"}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
    /// Finds the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs. A code of a newer server reads as `internal`.
    #[serde(deserialize_with = "code_or_internal")]
    pub code: Code,
    /// For people: what was wrong and what to do.
    pub message: String,
}

fn code_or_internal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or(Code::Internal))
}

impl ErrorBody {
    /// A body without a request id.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { error: ErrorDetail { code, message: message.into() }, request_id: None }
    }
}
