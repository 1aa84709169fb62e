//! What can go wrong in the agent, and with which exit code it ends.

use std::io;

use kkartifact_model::Code;
use kkartifact_model::api::error::ErrorBody;
use kkartifact_model::manifest::{Malformed, TreeError};

/// What the agent returns.
pub type Result<T, E = AgentError> = std::result::Result<T, E>;

/// Why it ended, as its exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The credential is missing, wrong or may not do this.
    Denied = 3,
    /// It does not exist, or the credential can't see it.
    NotFound = 4,
    /// It exists already with other content, or is in another state.
    Conflict = 5,
    /// Content is not what it should be: drift, damage, or a tree that can't be a version.
    Invalid = 6,
    /// The server can't be reached or can't serve now.
    Unavailable = 7,
    /// A guard refused: it looked like a mistake.
    Guard = 8,
    /// A disk is full, here or there.
    Full = 9,
    /// Another agent works on this directory.
    Busy = 10,
}

impl Kind {
    /// All kinds with what the documentation says of them.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Failed, "failed for a reason without a code of its own"),
        (Self::Usage, "the command line or the configuration is wrong"),
        (Self::Denied, "the credential is missing, wrong or may not do this"),
        (Self::NotFound, "it does not exist, or the credential can't see it"),
        (Self::Conflict, "it exists with other content, or is in another state"),
        (Self::Invalid, "content is not what it should be: drift, damage, or a tree that can't be a version"),
        (Self::Unavailable, "the server can't be reached or can't serve now; try again"),
        (Self::Guard, "a guard refused, because it looked like a mistake"),
        (Self::Full, "a disk is full, on this host or on the server"),
        (Self::Busy, "another agent works on this directory"),
    ];
}

/// An error with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// Decides the exit code.
    pub kind: Kind,
    /// What was wrong.
    pub message: String,
    /// What to do, often a command.
    pub hint: Option<String>,
    /// The server's code, if the server refused.
    pub code: Option<Code>,
}

impl AgentError {
    /// An error without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, code: None }
    }

    /// The error with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The command line or the configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A file system call failed.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |error| {
            let kind = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
                _ => Kind::Failed,
            };
            Self::new(kind, format!("{doing}: {error}"))
        }
    }

    /// A system call failed.
    pub fn os(doing: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let doing = doing.into();
        move |errno| Self::io(doing)(errno.into())
    }

    /// The server refused.
    pub fn refused(body: ErrorBody) -> Self {
        let code = body.error.code;
        let kind = match code {
            Code::Unauthenticated
            | Code::Forbidden
            | Code::CsrfRequired
            | Code::PasswordChangeRequired
            | Code::VersionQuarantined => Kind::Denied,
            Code::NotFound | Code::VersionDeleted | Code::VersionArchived => Kind::NotFound,
            Code::AlreadyExists
            | Code::VersionExists
            | Code::InUse
            | Code::Archived
            | Code::UploadClosed
            | Code::UploadIncomplete
            | Code::BaseMismatch
            | Code::LastAdmin
            | Code::NothingToRollBack
            | Code::NotReady
            | Code::BootstrapDone => Kind::Conflict,
            Code::InvalidManifest | Code::DigestMismatch | Code::TooLarge | Code::InvalidPath => {
                Kind::Invalid
            }
            Code::InvalidName | Code::InvalidRequest | Code::InvalidUrl => Kind::Usage,
            Code::Unavailable | Code::TooManyRequests | Code::RequestTimeout => Kind::Unavailable,
            Code::StorageFull => Kind::Full,
            _ => Kind::Failed,
        };
        let request = body.request_id.map(|id| format!(" (request {id})")).unwrap_or_default();
        let error = Self::new(kind, format!("the server says: {}{request}", body.error.message));
        let hint = match code {
            Code::Unauthenticated => Some("kkartifact-agent login --server-url URL"),
            Code::VersionExists => Some("kkartifact-agent versions"),
            Code::NotFound => Some("kkartifact-agent doctor"),
            _ => None,
        };
        Self { code: Some(code), hint: hint.map(str::to_owned), ..error }
    }
}

impl From<TreeError> for AgentError {
    fn from(error: TreeError) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<Malformed> for AgentError {
    fn from(error: Malformed) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}
