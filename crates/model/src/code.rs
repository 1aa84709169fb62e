//! The stable codes of every refusal: what a program may act on. Messages may change, codes don't.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident = $text:literal, $status:literal, $meaning:literal;)*) => {
        /// A stable error code. Each has one HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as it stands in an error body.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// What the code means, as the documentation says it.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    InvalidRequest = "invalid_request", 400, "The request is malformed: a parameter, header or body is missing, unknown or out of range.";
    InvalidName = "invalid_name", 400, "A project, app, version or channel name breaks the rules for names.";
    InvalidPath = "invalid_path", 400, "A path breaks the rules for paths.";
    InvalidUrl = "invalid_url", 400, "The URL is not one that the server may call; the message says why.";
    Unauthenticated = "unauthenticated", 401, "No credential, or one that is malformed, unknown, expired or revoked.";
    Forbidden = "forbidden", 403, "The caller may see this, but may not do this.";
    CsrfRequired = "csrf_required", 403, "A request with a cookie that changes something needs the X-CSRF-Token that the login answered.";
    PasswordChangeRequired = "password_change_required", 403, "The password is a temporary one: change it first.";
    VersionQuarantined = "version_quarantined", 403, "The version is quarantined: it can be seen, but neither read nor promoted.";
    NotFound = "not_found", 404, "It does not exist, or the caller may not see it.";
    MethodNotAllowed = "method_not_allowed", 405, "The path exists, the method does not.";
    RequestTimeout = "request_timeout", 408, "The client stopped sending.";
    AlreadyExists = "already_exists", 409, "Something of this name exists.";
    VersionExists = "version_exists", 409, "The version exists with other content. Versions never change: choose another name.";
    InUse = "in_use", 409, "Something still relies on it; the message says what.";
    Archived = "archived", 409, "The project or app is archived and takes no new versions.";
    UploadClosed = "upload_closed", 409, "The upload is finished, aborted or expired; start a new one.";
    UploadIncomplete = "upload_incomplete", 409, "Content that the manifest lists has not arrived; send what is missing and finish again.";
    BaseMismatch = "base_mismatch", 409, "The base version is not the one that the delta was made against; send the whole manifest.";
    LastAdmin = "last_admin", 409, "It is the last credential that may do everything; make another one first.";
    NothingToRollBack = "nothing_to_roll_back", 409, "The channel has no earlier version.";
    BootstrapDone = "bootstrap_done", 409, "The one-time secret has been used.";
    NotReady = "not_ready", 409, "It is being worked on; ask again as Retry-After says.";
    VersionDeleted = "version_deleted", 410, "The version was deleted. Pushing the same content again restores it.";
    VersionArchived = "version_archived", 410, "The version is archived: its content is kept, but nobody reads it until it is restored.";
    TooLarge = "too_large", 413, "A body, manifest or file is above the configured limit.";
    UnsupportedMediaType = "unsupported_media_type", 415, "The body's content type is not one that this route takes.";
    RangeNotSatisfiable = "range_not_satisfiable", 416, "The range lies outside the file.";
    InvalidManifest = "invalid_manifest", 422, "The manifest breaks the rules of a tree or contradicts what was announced.";
    DigestMismatch = "digest_mismatch", 422, "Content does not match its digest or size.";
    TooManyRequests = "too_many_requests", 429, "Too many requests; wait as Retry-After says.";
    Internal = "internal", 500, "A fault of the server. The log has the details under the request id.";
    Unavailable = "unavailable", 503, "The server, its database or its storage can't serve now; retry as Retry-After says.";
    StorageFull = "storage_full", 507, "The server's storage is full. Nothing was published; retry when an operator has made room.";
}

impl Code {
    /// Whether the same call may succeed later without anybody changing it.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::TooManyRequests
                | Self::Unavailable
                | Self::RequestTimeout
                | Self::NotReady
                | Self::Internal
        )
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_written_as_they_serialize() {
        let texts: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!((400..600).contains(&code.status()));
        }
    }
}
