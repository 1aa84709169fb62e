//! Schedules: when something is due again, and seeing to it that of many services one does it.

use std::str::FromStr as _;
use std::time::Duration;

use chrono::{DateTime, Offset as _, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use kkartifact_model::job::Job;
use kkartifact_service::{ApiError, ApiResult, Resources, Shutdown, config};
use kkartifact_store::{Actor, JobId, NewAudit, NewJob, Outcome, Priority, ScheduleRow, Timing, Tx};
use serde_json::json;

/// What happens again and again.
pub(crate) struct Plan {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) description: &'static str,
    /// When, unless somebody has changed it.
    cron: &'static str,
    /// What is done.
    pub(crate) job: Job,
}

/// Everything that happens again and again.
pub(crate) const PLANS: &[Plan] = &[
    Plan {
        name: "retention",
        description: "deletes or archives the versions that retention does not keep",
        cron: "0 3 * * *",
        job: Job::Retain {},
    },
    Plan {
        name: "garbage",
        description: "frees the storage that no version needs",
        cron: "0 4 * * *",
        job: Job::CollectGarbage {},
    },
    Plan {
        name: "uploads",
        description: "closes uploads that nobody has used for too long",
        cron: "*/5 * * * *",
        job: Job::SweepUploads {},
    },
    Plan {
        name: "history",
        description: "removes old jobs, deliveries and events",
        cron: "30 * * * *",
        job: Job::SweepHistory {},
    },
    Plan {
        name: "ends",
        description: "announces credentials that are about to end",
        cron: "0 8 * * *",
        job: Job::AnnounceEnds {},
    },
];

/// A tick that lies so far ahead was taken by somebody whose clock was wrong.
const AHEAD: TimeDelta = TimeDelta::hours(1);
/// How often the schedules are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Farther than clocks are ever moved.
const NEAR: TimeDelta = TimeDelta::hours(3);
/// A schedule that is due no sooner than this is taken for one that never is.
const NEVER: TimeDelta = TimeDelta::days(8 * 366);

/// Reads a cron expression and a time zone, and makes sure that they ever come to something.
pub(crate) fn parse(cron: &str, zone: &str, now: DateTime<Utc>) -> ApiResult<(Cron, Tz)> {
    let zone = Tz::from_str(zone).map_err(|_| {
        ApiError::invalid(format!("time_zone: {zone:?} is not a time zone such as Europe/Berlin"))
    })?;
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    let parsed = parser.parse(cron).map_err(|error| ApiError::invalid(format!("cron: {error}")))?;
    match next(&parsed, zone, now) {
        Some(tick) if tick - now < NEVER => Ok((parsed, zone)),
        _ => Err(ApiError::invalid(format!("cron: {cron:?} never comes"))),
    }
}

/// The next time after a moment.
pub(crate) fn next(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let local = |at: DateTime<Utc>| at.with_timezone(&zone);
    let next = cron.find_next_occurrence(&local(after), false).ok().map(|next| next.with_timezone(&Utc));
    let offset = |at| local(at).offset().fix();
    if offset(after - NEAR) == offset(after + NEAR) {
        return next;
    }
    // Where an hour comes twice, the search from within it misses the second one; from before it, it does not.
    let ticks = cron.iter_after(local(after - NEAR)).map(|tick| tick.with_timezone(&Utc));
    ticks.take_while(|tick| *tick < after + NEAR).filter(|tick| *tick > after).chain(next).min()
}

/// The last time up to now, if there was any after `after`.
fn due(cron: &Cron, zone: Tz, after: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let last = |after| {
        std::iter::successors(next(cron, zone, after), |tick| next(cron, zone, *tick))
            .take_while(|tick| *tick <= now)
            .last()
    };
    // Of a long time only the end is gone through, if there was anything then.
    last(after.max(now - NEAR)).or_else(|| last(after))
}

/// Sees to the schedules until it is time to stop.
pub(crate) async fn run(resources: Resources, shutdown: Shutdown) {
    loop {
        if let Err(error) = look(&resources).await {
            tracing::warn!(%error, cause = error.cause, "schedules can't be read; trying again");
        }
        if tokio::time::timeout(LOOK, shutdown.begun()).await.is_ok() {
            return;
        }
    }
}

/// Makes the schedules, gives them the defaults of this release, and lets those happen as the configuration says that
/// stand in it. Doing it again changes nothing.
pub(crate) async fn make(resources: &Resources) -> ApiResult<()> {
    let (now, jobs) = (resources.clock.now(), &resources.config.jobs);
    if let Some(name) = jobs.schedules.keys().find(|name| PLANS.iter().all(|plan| plan.name != *name)) {
        return Err(ApiError::internal(format!("jobs.schedules.{name}: there is no such schedule")));
    }
    let mut tx = resources.db.begin().await?;
    for plan in PLANS {
        let declared = jobs.schedules.get(plan.name);
        let timing = Timing {
            cron: declared.and_then(|declared| declared.cron.as_deref()).unwrap_or(plan.cron),
            time_zone: declared.and_then(|declared| declared.time_zone.as_deref()).unwrap_or(&jobs.time_zone),
            enabled: declared.is_none_or(|declared| declared.enabled),
        };
        parse(timing.cron, timing.time_zone, now).map_err(|error| {
            ApiError::internal(format!("jobs.schedules.{}: {}", plan.name, error.message))
        })?;
        let changed = tx.put_schedule(plan.name, timing, declared.is_some(), now).await?;
        if changed && declared.is_some() {
            let Timing { cron, time_zone, enabled } = timing;
            let detail =
                json!({ "name": plan.name, "cron": cron, "time_zone": time_zone, "enabled": enabled });
            let audit = NewAudit { action: "schedule.update", detail, ..NewAudit::default() };
            let actor = Actor::system("configuration", resources.auth.audit_key());
            tx.audit(&actor, Outcome::Done, &audit, now).await?;
        }
    }
    Ok(tx.commit().await?)
}

async fn look(resources: &Resources) -> ApiResult<()> {
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let rows = tx.list_schedules().await?;
    tx.commit().await?;
    for row in rows.into_iter().filter(|row| row.enabled) {
        let Some(plan) = PLANS.iter().find(|plan| plan.name == row.name) else { continue };
        let (cron, zone) = match parse(&row.cron, &row.time_zone, now) {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::error!(schedule = row.name, %error, "a schedule can't be read; it is left out");
                continue;
            }
        };
        // However many ticks were missed, what they were for is done once.
        if let Some(tick) =
            due(&cron, zone, row.last_tick.filter(|last| *last <= now + AHEAD).unwrap_or(now), now)
        {
            take(resources, plan, tick, now).await?;
        }
    }
    Ok(())
}

async fn take(resources: &Resources, plan: &Plan, tick: DateTime<Utc>, now: DateTime<Utc>) -> ApiResult<()> {
    let mut tx = resources.db.begin().await?;
    if tx.take_tick(plan.name, tick, now + AHEAD).await? {
        queue(&mut tx, plan, now).await?;
        tx.commit().await?;
        resources.jobs_queued.notify_waiters();
    }
    Ok(())
}

/// Queues what a plan is for, unless it is queued already.
pub(crate) async fn queue(tx: &mut Tx, plan: &Plan, now: DateTime<Utc>) -> ApiResult<Option<JobId>> {
    let key = format!("schedule {}", plan.name);
    let new = NewJob { unique_key: Some(&key), priority: Priority::Low, ..NewJob::new(&plan.job, now) };
    let job = tx.insert_job(&new, now).await?;
    if let Some(job) = job {
        tx.note_schedule_job(plan.name, job).await?;
    }
    Ok(job)
}

/// How many next times are shown.
const SHOWN: usize = 5;

/// A schedule as the API shows it.
pub(crate) fn describe(
    row: ScheduleRow,
    jobs: &config::Jobs,
    now: DateTime<Utc>,
) -> kkartifact_model::api::job::Schedule {
    let mut upcoming = Vec::new();
    if row.enabled
        && let Ok((cron, zone)) = parse(&row.cron, &row.time_zone, now)
    {
        upcoming = std::iter::successors(next(&cron, zone, now), |tick| next(&cron, zone, *tick))
            .take(SHOWN)
            .collect();
    }
    let plan = PLANS.iter().find(|plan| plan.name == row.name);
    kkartifact_model::api::job::Schedule {
        declared: jobs.schedules.contains_key(&row.name),
        name: row.name,
        description: plan.map_or("", |plan| plan.description).to_owned(),
        cron: row.cron,
        time_zone: row.time_zone,
        enabled: row.enabled,
        last_tick: row.last_tick,
        last_job_id: row.last_job_id,
        next: upcoming,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn what_never_comes_is_refused() {
        let now = at("2026-01-01T00:00:00Z");
        assert!(parse("0 3 * * *", "UTC", now).is_ok());
        assert!(parse("30 0 3 * * *", "UTC", now).is_ok(), "with seconds");
        assert!(parse("0 0 29 2 *", "UTC", now).is_ok(), "in leap years");
        for bad in ["0 0 30 2 *", "0 0 31 4 *", "", "* * *", "61 * * * *", "every day", "0 0 0 0 0"] {
            assert!(parse(bad, "UTC", now).is_err(), "{bad}");
        }
        assert!(parse("0 3 * * *", "Mars/Olympus", now).is_err());
    }

    #[test]
    fn a_time_zone_moves_with_its_summer() {
        let (cron, zone) = parse("0 3 * * *", "Europe/Berlin", at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(next(&cron, zone, at("2026-01-01T00:00:00Z")), Some(at("2026-01-01T02:00:00Z")));
        assert_eq!(next(&cron, zone, at("2026-07-01T00:00:00Z")), Some(at("2026-07-01T01:00:00Z")));
        // An hour that does not exist, or exists twice, is not missed and comes once.
        let (cron, zone) = parse("30 2 * * *", "Europe/Berlin", at("2026-01-01T00:00:00Z")).unwrap();
        let days = |from: &str| {
            std::iter::successors(next(&cron, zone, at(from)), |tick| next(&cron, zone, *tick))
                .take(3)
                .collect::<Vec<_>>()
        };
        for from in ["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"] {
            let ticks = days(from);
            let gaps: Vec<_> = ticks.windows(2).map(|pair| (pair[1] - pair[0]).num_hours()).collect();
            assert!(gaps.iter().all(|gap| (22..=26).contains(gap)), "{ticks:?}");
        }
    }

    #[test]
    fn missed_ticks_are_one() {
        let (cron, zone) = parse("0 3 * * *", "UTC", at("2026-01-01T00:00:00Z")).unwrap();
        let last = at("2026-01-01T03:00:00Z");
        assert_eq!(due(&cron, zone, last, at("2026-01-02T02:59:59Z")), None);
        assert_eq!(due(&cron, zone, last, at("2026-01-02T03:00:00Z")), Some(at("2026-01-02T03:00:00Z")));
        assert_eq!(due(&cron, zone, last, at("2026-01-09T12:00:00Z")), Some(at("2026-01-09T03:00:00Z")));
    }
}
