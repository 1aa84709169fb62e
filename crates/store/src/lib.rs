//! The metadata: everything that the services know, in SQLite or PostgreSQL.
//!
//! The only crate that names `sqlx`. One module a noun; each holds its statements, which both databases run
//! unchanged, and one function per question as a method of [`Tx`]. Where the dialects must differ a `match`
//! says so in place.

mod app;
mod audit;
mod audit_seal;
mod batch;
mod channel;
mod chunk;
mod chunk_set;
mod compaction;
mod db;
mod ending;
mod error;
mod event;
mod gc;
mod history;
mod host;
mod id;
mod job;
mod job_attempt;
mod job_count;
mod job_view;
mod legal_hold;
mod live_bytes;
mod pack;
mod page;
mod principal;
mod project;
mod retention;
mod role_binding;
mod schedule;
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
mod version_label;
mod version_list;
mod webhook;
mod webhook_attempt;
mod webhook_delivery;

pub use app::AppRow;
pub use audit::{Actor, AuditFilter, AuditKey, AuditRow, NewAudit, Outcome};
pub use audit_seal::{SealRow, StartRow};
pub use batch::{BatchLineRow, NewBatchLine, OpenBatchLine, batch_lane};
pub use channel::ChannelRow;
pub use chunk::{ChunkLocation, NewChunk};
pub use chunk_set::ChunkSet;
pub use compaction::{CompactedPack, Compaction, MAX_COMPACTED, Swap};
pub use db::{Database, DatabaseConfig};
pub use ending::{EndingKind, EndingRow};
pub use error::StoreError;
pub use event::{EventRow, NewEvent};
pub use gc::{Claim, ClaimedPack, Purge, PurgeableVersion};
pub use history::OldJobs;
pub use id::{
    AppId, AuditId, ChannelId, ElementId, JobId, PackId, PrincipalId, ProjectId, RoleBindingId, VersionId,
};
pub use job::{DueJob, JobRow, NewJob, Priority};
pub use job_attempt::{Beat, Ending};
pub use job_view::{ChangePlace, JobFilter, JobReach, JobViewRow};
pub use legal_hold::HeldVersions;
pub use live_bytes::{CompactablePack, DeadPlace, StoredBytes};
pub use pack::{NewPack, PackRow, VersionPack};
pub use page::{Cursor, PageQuery};
pub use principal::{PrincipalRow, kind};
pub use project::ProjectRow;
pub use retention::{ExpendablePlace, ExpendableRow, RetentionRule};
pub use role_binding::{BindingRow, BindingSubject, Reach, RoleBindingRow};
pub use schedule::{ScheduleRow, Timing};
pub use service_account::ServiceAccountRow;
pub use session::SessionRow;
pub use signing_key::SigningKeyRow;
pub use token::{NewTokenRow, TokenRow};
pub use trust_policy::{NewTrustPolicyRow, TrustPolicyRow};
pub use tx::Tx;
pub use upload::{NewUpload, UploadFileRow, UploadRow};
pub use user::{NewUserRow, UserRow};
pub use version::{NewVersion, VersionRow};
pub use version_label::LabelFilter;
pub use version_list::VersionFilter;
pub use webhook::{NewWebhookRow, WebhookRow};
pub use webhook_attempt::{DeliveryAttemptRow, DueDelivery};
pub use webhook_delivery::{DeliveryRow, NewDelivery};

/// Every statement: module, name and text. For the test that prepares each on both databases.
#[doc(hidden)]
pub fn statements() -> Vec<(&'static str, &'static str, &'static str)> {
    let modules = [
        ("app", app::STATEMENTS),
        ("audit", audit::STATEMENTS),
        ("audit_seal", audit_seal::STATEMENTS),
        ("batch", batch::STATEMENTS),
        ("channel", channel::STATEMENTS),
        ("chunk", chunk::STATEMENTS),
        ("compaction", compaction::STATEMENTS),
        ("ending", ending::STATEMENTS),
        ("event", event::STATEMENTS),
        ("gc", gc::STATEMENTS),
        ("history", history::STATEMENTS),
        ("host", host::STATEMENTS),
        ("job", job::STATEMENTS),
        ("job_attempt", job_attempt::STATEMENTS),
        ("job_count", job_count::STATEMENTS),
        ("job_view", job_view::STATEMENTS),
        ("legal_hold", legal_hold::STATEMENTS),
        ("live_bytes", live_bytes::STATEMENTS),
        ("pack", pack::STATEMENTS),
        ("principal", principal::STATEMENTS),
        ("project", project::STATEMENTS),
        ("retention", retention::STATEMENTS),
        ("role_binding", role_binding::STATEMENTS),
        ("schedule", schedule::STATEMENTS),
        ("service_account", service_account::STATEMENTS),
        ("session", session::STATEMENTS),
        ("setting", setting::STATEMENTS),
        ("signing_key", signing_key::STATEMENTS),
        ("token", token::STATEMENTS),
        ("trust_policy", trust_policy::STATEMENTS),
        ("upload", upload::STATEMENTS),
        ("user", user::STATEMENTS),
        ("version", version::STATEMENTS),
        ("version_label", version_label::STATEMENTS),
        ("version_list", version_list::STATEMENTS),
        ("webhook", webhook::STATEMENTS),
        ("webhook_attempt", webhook_attempt::STATEMENTS),
        ("webhook_delivery", webhook_delivery::STATEMENTS),
    ];
    let all = modules
        .into_iter()
        .flat_map(|(module, list)| list.iter().map(move |(name, sql)| (module, *name, *sql)));
    all.collect()
}
