//! Row ids, one type a table, so that they can't be mixed up.

use serde::{Deserialize, Serialize};

macro_rules! id_type {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type, Serialize, Deserialize)]
            #[sqlx(transparent)]
            #[serde(transparent)]
            pub struct $name(pub i64);
        )*
    };
}

id_type! {
    /// A row of `principal`.
    PrincipalId;
    /// A row of `project`.
    ProjectId;
    /// A row of `app`.
    AppId;
    /// A row of `version`.
    VersionId;
    /// A row of `channel`.
    ChannelId;
    /// A row of `pack`.
    PackId;
    /// A row of `storage_element`.
    ElementId;
    /// A row of `job`.
    JobId;
    /// A row of `audit`.
    AuditId;
    /// A row of `role_binding`.
    RoleBindingId;
}
