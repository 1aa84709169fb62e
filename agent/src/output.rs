//! What the agent says: results to standard output, everything else to standard error.

use std::fmt::Display;
use std::io::Write as _;

use serde::Serialize;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document, for programs.
    Json,
    /// Not at all.
    Quiet,
}

impl Format {
    /// Writes a result.
    pub fn result<T: Serialize + Display>(self, result: &T) {
        match self {
            Self::Text => line(&result.to_string()),
            Self::Json => line(&serde_json::to_string(result).unwrap_or_default()),
            Self::Quiet => {}
        }
    }
}

/// Writes a line to standard output. Nobody reading any more is no reason to fail.
pub fn line(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Writes a line to standard error.
pub fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
