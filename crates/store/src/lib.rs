//! The metadata: everything that the services know, in SQLite or PostgreSQL.
//!
//! The only crate that names `sqlx`. One module a noun; each holds its statements, which both databases run
//! unchanged, and one function per question as a method of [`Tx`]. Where the dialects must differ a `match`
//! says so in place.

mod app;
mod audit;
mod audit_seal;
mod channel;
mod chunk;
mod db;
mod error;
mod event;
mod host;
mod id;
mod job;
mod pack;
mod page;
mod principal;
mod project;
mod role_binding;
mod service_account;
mod session;
mod setting;
mod signing_key;
mod token;
mod trust_policy;
mod tx;
mod upload;
mod user;
mod version;

pub use app::AppRow;
pub use audit::{Actor, AuditFilter, AuditKey, AuditRow, NewAudit, Outcome};
pub use audit_seal::{SealRow, StartRow};
pub use channel::ChannelRow;
pub use chunk::{ChunkLocation, NewChunk};
pub use db::{Database, DatabaseConfig};
pub use error::StoreError;
pub use event::{EventRow, NewEvent};
pub use id::{
    AppId, AuditId, ChannelId, ElementId, JobId, PackId, PrincipalId, ProjectId, RoleBindingId, VersionId,
};
pub use job::{JobRow, JobState};
pub use pack::{NewPack, PackRow, VersionPack};
pub use page::{Cursor, PageQuery};
pub use principal::{PrincipalRow, kind};
pub use project::ProjectRow;
pub use role_binding::{BindingRow, BindingSubject, Reach, RoleBindingRow};
pub use service_account::ServiceAccountRow;
pub use session::SessionRow;
pub use signing_key::SigningKeyRow;
pub use token::{NewTokenRow, TokenRow};
pub use trust_policy::{NewTrustPolicyRow, TrustPolicyRow};
pub use tx::Tx;
pub use upload::{NewUpload, UploadFileRow, UploadRow};
pub use user::{NewUserRow, UserRow};
pub use version::{NewVersion, PruneCandidate, VersionFilter, VersionRow};

/// Every statement: module, name and text. For the test that prepares each on both databases.
#[doc(hidden)]
pub fn statements() -> Vec<(&'static str, &'static str, &'static str)> {
    let modules = [
        ("app", app::STATEMENTS),
        ("audit", audit::STATEMENTS),
        ("audit_seal", audit_seal::STATEMENTS),
        ("channel", channel::STATEMENTS),
        ("chunk", chunk::STATEMENTS),
        ("event", event::STATEMENTS),
        ("host", host::STATEMENTS),
        ("job", job::STATEMENTS),
        ("pack", pack::STATEMENTS),
        ("principal", principal::STATEMENTS),
        ("project", project::STATEMENTS),
        ("role_binding", role_binding::STATEMENTS),
        ("service_account", service_account::STATEMENTS),
        ("session", session::STATEMENTS),
        ("setting", setting::STATEMENTS),
        ("signing_key", signing_key::STATEMENTS),
        ("token", token::STATEMENTS),
        ("trust_policy", trust_policy::STATEMENTS),
        ("upload", upload::STATEMENTS),
        ("user", user::STATEMENTS),
        ("version", version::STATEMENTS),
    ];
    let all = modules
        .into_iter()
        .flat_map(|(module, list)| list.iter().map(move |(name, sql)| (module, *name, *sql)));
    all.collect()
}
