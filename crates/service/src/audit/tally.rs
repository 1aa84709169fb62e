//! Refusals and reads of content: too many to write each one down, so they are counted for a while and then written
//! as one row.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kkartifact_model::{AppName, Code, Permission, ProjectName};
use kkartifact_store::{Actor, AuditKey, NewAudit, Outcome, PrincipalId};

use crate::auth::Caller;
use crate::error::{ApiResult, Refused};
use crate::http::context::RequestContext;
use crate::resources::Resources;
use crate::routes::{Access, Route, Scope, Service};

/// How many different deeds are counted at the same time. What is beyond is counted as one.
const MOST: usize = 10_000;
/// How many rows are written in one transaction.
const BATCH: usize = 200;

/// Who did, or tried to do, what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Deed {
    actor: Option<PrincipalId>,
    kind: &'static str,
    name: String,
    address: Option<String>,
    route: &'static str,
    reads: bool,
    project: Option<String>,
    app: Option<String>,
    version: Option<String>,
}

impl Deed {
    /// Of nobody who is known, so far.
    pub(crate) fn new(route: &'static Route) -> Self {
        Self {
            actor: None,
            kind: "anonymous",
            name: "anonymous".to_owned(),
            address: None,
            route: &route.name,
            reads: route.service == Service::Transfer
                && route.access == Access::Needs(Permission::Pull, Scope::Path),
            project: None,
            app: None,
            version: None,
        }
    }

    pub(crate) fn came_from(&mut self, context: &RequestContext) {
        self.address = context.ip().map(|address| address.to_string());
    }

    pub(crate) fn by(&mut self, caller: &Caller) {
        self.actor = Some(caller.principal);
        self.kind = caller.kind;
        caller.name.clone_into(&mut self.name);
    }

    pub(crate) fn to(&mut self, project: &ProjectName, app: Option<&AppName>, version: Option<&str>) {
        self.project = Some(project.to_string());
        self.app = app.map(ToString::to_string);
        // Anything may stand in a path.
        self.version = version.map(|version| version.chars().filter(|c| !c.is_control()).take(128).collect());
    }

    /// What the body named, where it was not the path.
    pub(crate) fn refused(&mut self, refused: &Refused) {
        if refused.project.is_some() {
            self.project.clone_from(&refused.project);
            self.app.clone_from(&refused.app);
        }
    }

    /// One for all that are too many: refusals by nobody in particular, reads still by their actor.
    fn of_several(self) -> Self {
        if self.reads {
            return Self { address: None, version: None, ..self };
        }
        let name = "several".to_owned();
        Self { actor: None, kind: "anonymous", name, address: None, project: None, app: None, ..self }
    }

    pub(crate) fn reads_content(&self) -> bool {
        self.reads
    }
}

type Counts = HashMap<(Deed, Option<Code>), u32>;

/// What has been counted and not yet written. Refusals can't push reads out of sight.
#[derive(Default)]
pub struct Tally {
    refusals: Mutex<Counts>,
    reads: Mutex<Counts>,
}

impl Tally {
    /// Counts a refusal. What version it would have been about, anybody can make up.
    pub(crate) fn refused(&self, deed: Deed, code: Code) {
        metrics::counter!("kkartifact_refusals_total", "code" => code.as_str()).increment(1);
        count(&self.refusals, (Deed { version: None, ..deed }, Some(code)), 1);
    }

    /// Counts a read of content.
    pub(crate) fn read(&self, deed: Deed) {
        count(&self.reads, (deed, None), 1);
    }

    /// Writes what has been counted up to now. What can't be written stays counted.
    pub async fn flush(&self, resources: &Resources) -> ApiResult<()> {
        for counts in [&self.refusals, &self.reads] {
            // What is counted meanwhile is for the next time: else this would never end under load.
            let taken = std::mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner));
            let mut rest: Vec<_> = taken.into_iter().collect();
            while !rest.is_empty() {
                let next = rest.split_off(rest.len().saturating_sub(BATCH));
                if let Err(error) = write(resources, &next).await {
                    for (key, times) in rest.into_iter().chain(next) {
                        count(counts, key, times);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

fn count(counts: &Mutex<Counts>, key: (Deed, Option<Code>), times: u32) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut key = key;
    if counts.len() >= MOST && !counts.contains_key(&key) {
        let (deed, code) = key;
        key = (deed.of_several(), code);
    }
    let counted = counts.entry(key).or_default();
    *counted = counted.saturating_add(times);
}

async fn write(resources: &Resources, some: &[((Deed, Option<Code>), u32)]) -> ApiResult<()> {
    let mut tx = resources.db.begin().await?;
    for ((deed, code), times) in some {
        let (actor, row, outcome) = written(deed, *code, *times, resources.auth.audit_key());
        tx.audit(&actor, outcome, &row, resources.clock.now()).await?;
    }
    Ok(tx.commit().await?)
}

fn written<'a>(
    deed: &'a Deed,
    code: Option<Code>,
    times: u32,
    key: &AuditKey,
) -> (Actor, NewAudit<'a>, Outcome) {
    let actor = Actor {
        id: deed.actor,
        kind: deed.kind.to_owned(),
        name: deed.name.clone(),
        address: deed.address.clone(),
        request_id: None,
        trace_parent: None,
        key: key.clone(),
    };
    let row = NewAudit {
        action: deed.route,
        times,
        project: deed.project.as_deref(),
        app: deed.app.as_deref(),
        version: deed.version.as_deref(),
        detail: code.map_or(serde_json::Value::Null, |code| serde_json::json!({ "code": code })),
        ..NewAudit::default()
    };
    (actor, row, if code.is_some() { Outcome::Refused } else { Outcome::Done })
}
