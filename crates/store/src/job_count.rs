//! How many jobs there are: by state for people, and due by kind for the metrics. Nothing is counted further than
//! anybody needs to know.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use kkartifact_model::api::job::{JobCounts, JobState};

use crate::error::StoreError;
use crate::job::lanes;
use crate::job_view::{JobReach, visible};
use crate::role_binding::list;
use crate::tx::{Tx, fetch_all, fetch_one, statements};

macro_rules! count {
    ($jobs:literal) => {
        concat!("SELECT s.value, (SELECT COUNT(*) FROM (", $jobs, " LIMIT $2) few) FROM json_each($1) s")
    };
}

// Of these projects, since the index has no states within a project. Of who may view everything, deliveries only: the
// rest has been counted.
macro_rules! count_within {
    ($jobs:literal) => {
        concat!(
            "SELECT j.state, COUNT(*) FROM ",
            $jobs,
            visible!(),
            " AND (NOT $4 OR j.kind = 'deliver_webhook') GROUP BY j.state"
        )
    };
}

statements! {
    COUNT = count!("SELECT 1 FROM job j WHERE j.state = s.value");
    // Deliveries are the most, and are passed over by the index.
    COUNT_VIEW = count!("SELECT 1 FROM job j WHERE j.state = s.value AND j.kind < 'deliver_webhook' AND j.project_id IS NOT NULL
        UNION ALL
        SELECT 1 FROM job j WHERE j.state = s.value AND j.kind > 'deliver_webhook' AND j.project_id IS NOT NULL");
    COUNT_WITHIN =
        count_within!("job j WHERE j.project_id IN (SELECT CAST(value AS BIGINT) FROM json_each($7)) AND ");
    // There the planner would look at all jobs.
    COUNT_WITHIN_POSTGRES = count_within!("json_each($7) o CROSS JOIN LATERAL (SELECT r.state, r.kind, r.project_id, r.app_id
            FROM job r WHERE r.project_id = CAST(o.value AS BIGINT) OFFSET 0) j WHERE ");
    // With each lane and priority by itself the index says at once where what is due begins and ends.
    WAITING = concat!(lanes!(), "SELECT CAST(COALESCE(SUM(o.due), 0) AS BIGINT), MIN(o.since) FROM (
        SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM job d WHERE d.state = 'queued' AND d.kind = $1 AND d.lane = l.lane
                AND d.priority = c.priority AND d.run_at <= $2 LIMIT $3) few) AS due,
            (SELECT MIN(d.run_at) FROM job d WHERE d.state = 'queued' AND d.kind = $1 AND d.lane = l.lane
                AND d.priority = c.priority AND d.run_at <= $2) AS since
        FROM lanes l CROSS JOIN (SELECT -1 AS priority UNION ALL SELECT 0 UNION ALL SELECT 1) c
        WHERE l.lane IS NOT NULL) o");
}

/// So many are counted of a state, and one more, which shows that there are more.
const BOUND: i64 = JobCounts::MOST.cast_signed() + 1;

fn counted(rows: Vec<(String, i64)>) -> JobCounts {
    let mut found: BTreeMap<JobState, u64> = BTreeMap::new();
    for (state, count) in rows {
        if let Ok(state) = state.parse() {
            *found.entry(state).or_default() += u64::try_from(count).unwrap_or(0);
        }
    }
    let of = |state| found.get(&state).map_or(0, |count| JobCounts::MOST.min(*count));
    let is_capped = |(state, count): (&JobState, &u64)| (*count > JobCounts::MOST).then_some(*state);
    JobCounts {
        queued: of(JobState::Queued),
        running: of(JobState::Running),
        succeeded: of(JobState::Succeeded),
        failed: of(JobState::Failed),
        dead: of(JobState::Dead),
        cancelled: of(JobState::Cancelled),
        capped: found.iter().filter_map(is_capped).collect(),
    }
}

impl Tx {
    /// How many jobs within a reach are in which state. A limited reach costs no more than the jobs of its projects,
    /// whatever others have.
    pub async fn count_jobs(&mut self, reach: &JobReach) -> Result<JobCounts, StoreError> {
        let JobReach { admin, view } = reach;
        if admin.everything {
            return self.count_states(JobState::ALL).await;
        }
        let mut projects = [admin.projects.as_slice(), &admin.around].concat();
        let mut rows = Vec::new();
        if view.everything {
            rows = fetch_all!(self, (String, i64), COUNT_VIEW, list(JobState::ALL), BOUND)?;
        } else {
            projects.extend(view.projects.iter().chain(&view.around));
        }
        projects.sort_unstable();
        projects.dedup();
        let sql = match self {
            Self::Sqlite(_) => COUNT_WITHIN,
            Self::Postgres(_) => COUNT_WITHIN_POSTGRES,
        };
        rows.extend(fetch_all!(
            self,
            (String, i64),
            sql,
            admin.everything,
            list(&admin.projects),
            list(&admin.apps),
            view.everything,
            list(&view.projects),
            list(&view.apps),
            list(&projects)
        )?);
        Ok(counted(rows))
    }

    /// How many jobs are in these states.
    pub async fn count_states(&mut self, states: &[JobState]) -> Result<JobCounts, StoreError> {
        Ok(counted(fetch_all!(self, (String, i64), COUNT, list(states), BOUND)?))
    }

    /// How many jobs of a kind are due, of which [`JobCounts::MOST`] of each lane and priority are counted, and since
    /// when the oldest is.
    pub async fn waiting_jobs(
        &mut self,
        kind: &str,
        now: DateTime<Utc>,
    ) -> Result<(i64, Option<DateTime<Utc>>), StoreError> {
        fetch_one!(self, (i64, Option<DateTime<Utc>>), WAITING, kind, now, BOUND - 1)
    }
}
