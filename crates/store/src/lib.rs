//! The metadata: everything that the services know, in SQLite or PostgreSQL.
//!
//! The only crate that names `sqlx`. One module a noun; each holds its statements, which both databases run
//! unchanged, and one function per question as a method of [`Tx`]. Where the dialects must differ a `match`
//! says so in place.

mod app;
mod audit;
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
mod project;
mod setting;
mod token;
mod tx;
mod upload;
mod version;

pub use app::AppRow;
pub use audit::{Actor, AuditRow, NewAudit, Outcome};
pub use channel::ChannelRow;
pub use chunk::{ChunkLocation, NewChunk};
pub use db::{Database, DatabaseConfig};
pub use error::StoreError;
pub use event::NewEvent;
pub use id::{AppId, AuditId, ChannelId, ElementId, JobId, PackId, PrincipalId, ProjectId, VersionId};
pub use job::{JobRow, JobState};
pub use pack::{NewPack, PackRow, VersionPack};
pub use page::{Cursor, PageQuery};
pub use project::ProjectRow;
pub use token::{BindingRow, NewTokenRow, TokenRow};
pub use tx::Tx;
pub use upload::{NewUpload, UploadFileRow, UploadRow};
pub use version::{NewVersion, PruneCandidate, VersionFilter, VersionRow};

/// Every statement: module, name and text. For the test that prepares each on both databases.
#[doc(hidden)]
pub fn statements() -> Vec<(&'static str, &'static str, &'static str)> {
    let modules = [
        ("app", app::STATEMENTS),
        ("audit", audit::STATEMENTS),
        ("channel", channel::STATEMENTS),
        ("chunk", chunk::STATEMENTS),
        ("event", event::STATEMENTS),
        ("host", host::STATEMENTS),
        ("job", job::STATEMENTS),
        ("pack", pack::STATEMENTS),
        ("project", project::STATEMENTS),
        ("setting", setting::STATEMENTS),
        ("token", token::STATEMENTS),
        ("upload", upload::STATEMENTS),
        ("version", version::STATEMENTS),
    ];
    let all = modules
        .into_iter()
        .flat_map(|(module, list)| list.iter().map(move |(name, sql)| (module, *name, *sql)));
    all.collect()
}
