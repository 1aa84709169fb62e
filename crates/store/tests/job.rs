//! The job table: claims, fences, takeovers, lanes and the order of changes, on both databases.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::job::{JobCounts, JobState};
use kkartifact_model::job::Job;
use kkartifact_store::{
    AppRow, Beat, Database, Ending, JobId, JobReach, JobRow, NewJob, Priority, Reach, StoreError,
};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use serde_json::json;

on_both_databases! {
    a_job_is_claimed_once,
    only_the_attempt_that_holds_a_job_ends_it,
    a_silent_attempt_is_taken_over_and_dies_in_the_end,
    one_of_cancel_and_ending_wins,
    one_queued_job_has_a_key,
    a_retry_that_finds_its_key_queued_gives_way,
    no_lane_hides_another,
    jobs_are_counted_within_a_reach_and_up_to_a_bound,
    what_waits_is_counted_in_each_lane,
    changes_come_in_the_order_of_commits,
}

const KIND: &str = "sweep_uploads";
const JOB: Job = Job::SweepUploads {};

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn everything() -> JobReach {
    JobReach { admin: Reach { everything: true, ..Reach::default() }, ..JobReach::default() }
}

async fn queue(database: &Database, new: &NewJob<'_>) -> Option<JobId> {
    let mut tx = database.begin().await.unwrap();
    let id = tx.insert_job(new, now()).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn claim(database: &Database, id: JobId, owner: &str) -> Option<JobRow> {
    let mut tx = database.begin().await.unwrap();
    let row = tx.claim_jobs(&[id], owner, now()).await.unwrap().pop();
    tx.commit().await.unwrap();
    row
}

async fn end(database: &Database, row: &JobRow, state: JobState) -> bool {
    let ending =
        Ending { state, failed: state != JobState::Succeeded, error: None, result: None, run_at: now() };
    let mut tx = database.begin().await.unwrap();
    let own = tx.end_job(row, &ending, now()).await.unwrap();
    tx.commit().await.unwrap();
    own
}

async fn state(database: &Database, id: JobId) -> JobState {
    let mut tx = database.read().await.unwrap();
    tx.find_job(id).await.unwrap().unwrap().state
}

async fn a_job_is_claimed_once(database: TestDatabase) {
    let database = database.open().await;
    let later = NewJob::new(&JOB, now() + TimeDelta::seconds(1));
    let id = queue(&database, &NewJob::new(&JOB, now())).await.unwrap();
    let not_yet = queue(&database, &later).await.unwrap();
    let mut tx = database.read().await.unwrap();
    let due = tx.due_jobs(KIND, &[], 10, 10, now()).await.unwrap();
    assert_eq!(due.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    drop(tx);
    let row = claim(&database, id, "one").await.unwrap();
    assert_eq!((row.attempt, row.kind.as_str()), (1, KIND));
    assert!(claim(&database, id, "two").await.is_none());
    assert!(claim(&database, not_yet, "one").await.is_none(), "it is not due");
}

async fn only_the_attempt_that_holds_a_job_ends_it(database: TestDatabase) {
    let database = database.open().await;
    let id = queue(&database, &NewJob::new(&JOB, now())).await.unwrap();
    let first = claim(&database, id, "one").await.unwrap();
    assert!(end(&database, &first, JobState::Queued).await);
    let second = claim(&database, id, "two").await.unwrap();
    assert_eq!((second.attempt, second.failures), (2, 1));

    let mut tx = database.begin().await.unwrap();
    assert!(!tx.holds_job(&first).await.unwrap());
    assert!(tx.holds_job(&second).await.unwrap());
    assert!(!tx.note_progress(&first, &json!(1), now()).await.unwrap());
    assert!(tx.note_progress(&second, &json!({ "at": 2 }), now()).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!end(&database, &first, JobState::Succeeded).await);
    assert_eq!(state(&database, id).await, JobState::Running);
    assert!(end(&database, &second, JobState::Succeeded).await);
    assert!(!end(&database, &second, JobState::Failed).await, "it is over");
}

async fn a_silent_attempt_is_taken_over_and_dies_in_the_end(database: TestDatabase) {
    let database = database.open().await;
    let id = queue(&database, &NewJob::new(&JOB, now())).await.unwrap();
    for attempt in 1..=JOB.max_attempts() {
        let row = claim(&database, id, "one").await.unwrap();
        let mut tx = database.begin().await.unwrap();
        let beats = tx.job_beats(JobId(0), 10).await.unwrap();
        assert_eq!(beats, [Beat { id, attempt, beat: 0 }]);
        let given = tx.beat_jobs(&[id], "one").await.unwrap();
        assert_eq!(given, [Beat { id, attempt, beat: 1 }]);
        assert!(tx.beat_jobs(&[id], "another").await.unwrap().is_empty(), "only its owner speaks for it");
        assert_eq!(tx.take_over_job(&beats[0], now()).await.unwrap(), None, "it has just given a sign");
        let state = tx.take_over_job(&given[0], now()).await.unwrap().unwrap();
        let last = attempt == JOB.max_attempts();
        assert_eq!(state, if last { "dead" } else { "queued" });
        assert!(!tx.holds_job(&row).await.unwrap());
        tx.commit().await.unwrap();
    }
    let mut tx = database.begin().await.unwrap();
    assert!(tx.requeue_job(id, now()).await.unwrap());
    assert!(!tx.requeue_job(id, now()).await.unwrap(), "it is queued");
    tx.commit().await.unwrap();
    assert_eq!(claim(&database, id, "two").await.unwrap().failures, 0);
}

async fn one_of_cancel_and_ending_wins(database: TestDatabase) {
    let database = database.open().await;
    let ids = [0; 2].map(|_| async { queue(&database, &NewJob::new(&JOB, now())).await.unwrap() });
    let [first, second] = ids;
    let (first, second) = (first.await, second.await);
    let row = claim(&database, first, "one").await.unwrap();
    let mut tx = database.begin().await.unwrap();
    assert!(tx.cancel_job(first, now()).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!end(&database, &row, JobState::Succeeded).await);
    assert_eq!(state(&database, first).await, JobState::Cancelled);

    let row = claim(&database, second, "one").await.unwrap();
    assert!(end(&database, &row, JobState::Succeeded).await);
    let mut tx = database.begin().await.unwrap();
    assert!(!tx.cancel_job(second, now()).await.unwrap());
    assert!(!tx.requeue_job(second, now()).await.unwrap(), "what succeeded is not done again");
}

async fn one_queued_job_has_a_key(database: TestDatabase) {
    let database = database.open().await;
    let keyed = NewJob { unique_key: Some("key"), ..NewJob::new(&JOB, now()) };
    let id = queue(&database, &keyed).await.unwrap();
    assert_eq!(queue(&database, &keyed).await, None);
    let row = claim(&database, id, "one").await.unwrap();
    assert!(queue(&database, &keyed).await.is_some(), "while one runs, the next may wait");
    assert!(end(&database, &row, JobState::Failed).await);
    let mut tx = database.begin().await.unwrap();
    assert!(matches!(tx.requeue_job(id, now()).await, Err(StoreError::Conflict)));
}

async fn a_retry_that_finds_its_key_queued_gives_way(database: TestDatabase) {
    let database = database.open().await;
    let keyed = NewJob { unique_key: Some("key"), ..NewJob::new(&JOB, now()) };
    let id = queue(&database, &keyed).await.unwrap();
    let row = claim(&database, id, "one").await.unwrap();
    queue(&database, &keyed).await.unwrap();
    assert!(end(&database, &row, JobState::Queued).await);
    assert_eq!(state(&database, id).await, JobState::Cancelled);
}

async fn no_lane_hides_another(database: TestDatabase) {
    let database = database.open().await;
    for (lane, count) in [("a", 20), ("b", 3), ("", 2), ("c", 1)] {
        for _ in 0..count {
            queue(&database, &NewJob { lane, ..NewJob::new(&JOB, now()) }).await.unwrap();
        }
    }
    let urgent = NewJob { lane: "c", priority: Priority::High, ..NewJob::new(&JOB, now()) };
    let urgent = queue(&database, &urgent).await.unwrap();
    let mut tx = database.read().await.unwrap();
    let due = tx.due_jobs(KIND, &[], 2, 100, now()).await.unwrap();
    let count = |lane: &str| due.iter().filter(|job| job.lane == lane).count();
    assert_eq!([count("a"), count("b"), count(""), count("c")], [2, 2, 2, 2]);
    assert_eq!(due[0].id, urgent);
    let due = tx.due_jobs(KIND, &["a".to_owned()], 10, 100, now()).await.unwrap();
    assert!(due.iter().all(|job| job.lane != "a") && due.len() == 7, "{due:?}");
    drop(tx);
    claim(&database, urgent, "one").await.unwrap();
    let mut tx = database.read().await.unwrap();
    assert_eq!(tx.running_lanes(KIND).await.unwrap(), [("c".to_owned(), 1)]);
}

/// A project of this name with an app.
async fn make_app(database: &Database, project: &str) -> AppRow {
    let (project, name) = (project.parse().unwrap(), "web".parse().unwrap());
    let mut tx = database.begin().await.unwrap();
    tx.insert_project(&project, "", now()).await.unwrap();
    let id = tx.find_project(&project).await.unwrap().unwrap().id;
    tx.insert_app(id, &name, "", now()).await.unwrap();
    let row = tx.find_app(&project, &name).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    row
}

/// Makes many jobs at once, that were all due or over at [`now`].
async fn many(database: &TestDatabase, kind: &str, state: &str, app: Option<&AppRow>, count: u32) {
    let id = |id: Option<i64>| id.map_or("NULL".to_owned(), |id| id.to_string());
    let (project, app) = (id(app.map(|app| app.project_id.0)), id(app.map(|app| app.id.0)));
    let at = "'2026-01-02T03:04:05+00:00'";
    let sql = format!(
        "INSERT INTO job (kind, payload, state, priority, run_at, attempt, max_attempts, project_id, app_id, lane,
            created_at, updated_at)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
        SELECT '{kind}', '{{}}', '{state}', 0, {at}, 1, 10, {project}, {app}, '', {at}, {at} FROM n"
    );
    database.execute(&sql).await;
}

async fn jobs_are_counted_within_a_reach_and_up_to_a_bound(test: TestDatabase) {
    let database = test.open().await;
    let (shop, wiki) = (make_app(&database, "shop").await, make_app(&database, "wiki").await);
    many(&test, "version_marker", "succeeded", Some(&shop), 10_001).await;
    many(&test, "version_marker", "cancelled", Some(&shop), 10_000).await;
    many(&test, "deliver_webhook", "dead", Some(&shop), 3).await;
    many(&test, "deliver_webhook", "dead", Some(&wiki), 1).await;
    many(&test, "collect_garbage", "failed", Some(&wiki), 2).await;
    many(&test, "sweep_uploads", "queued", None, 4).await;

    let everywhere = Reach { everything: true, ..Reach::default() };
    let in_shop = Reach { projects: vec![shop.project_id.0], ..Reach::default() };
    let in_web = Reach { apps: vec![shop.id.0], around: vec![shop.project_id.0], ..Reach::default() };
    let in_wiki = Reach { projects: vec![wiki.project_id.0], ..Reach::default() };
    let nowhere = Reach::default();
    let none = JobCounts::default();
    let of_shop =
        JobCounts { succeeded: 10_000, cancelled: 10_000, capped: vec![JobState::Succeeded], ..none.clone() };
    let mut tx = database.read().await.unwrap();
    for (what, admin, view, expected) in [
        ("all", &everywhere, &everywhere, JobCounts { queued: 4, failed: 2, dead: 4, ..of_shop.clone() }),
        ("view of all", &nowhere, &everywhere, JobCounts { failed: 2, ..of_shop.clone() }),
        ("and admin of shop", &in_shop, &everywhere, JobCounts { failed: 2, dead: 3, ..of_shop.clone() }),
        ("and admin of web", &in_web, &everywhere, JobCounts { failed: 2, dead: 3, ..of_shop.clone() }),
        ("admin of shop", &in_shop, &in_shop, JobCounts { dead: 3, ..of_shop.clone() }),
        ("view of shop", &nowhere, &in_shop, of_shop.clone()),
        ("view of web", &nowhere, &in_web, of_shop),
        ("view of wiki", &nowhere, &in_wiki, JobCounts { failed: 2, ..none.clone() }),
        ("nothing", &nowhere, &nowhere, none.clone()),
    ] {
        let reach = JobReach { admin: admin.clone(), view: view.clone() };
        assert_eq!(tx.count_jobs(&reach).await.unwrap(), expected, "{what}");
    }
    let open = tx.count_states(&[JobState::Queued, JobState::Dead]).await.unwrap();
    assert_eq!(open, JobCounts { queued: 4, dead: 4, ..none });
}

async fn what_waits_is_counted_in_each_lane(test: TestDatabase) {
    let database = test.open().await;
    let ago = |seconds| now() - TimeDelta::seconds(seconds);
    for (lane, priority, run_at) in [
        ("a", Priority::Normal, ago(5)),
        ("a", Priority::High, ago(7)),
        ("b", Priority::Low, ago(60)),
        ("b", Priority::Normal, ago(-1)),
    ] {
        queue(&database, &NewJob { lane, priority, ..NewJob::new(&JOB, run_at) }).await.unwrap();
    }
    let mut tx = database.read().await.unwrap();
    assert_eq!(tx.waiting_jobs(KIND, now()).await.unwrap(), (3, Some(ago(60))));
    assert_eq!(tx.waiting_jobs(KIND, ago(10)).await.unwrap(), (1, Some(ago(60))));
    assert_eq!(tx.waiting_jobs("retain", now()).await.unwrap(), (0, None));
    drop(tx);
    many(&test, KIND, "queued", None, 10_001).await;
    let mut tx = database.read().await.unwrap();
    assert_eq!(tx.waiting_jobs(KIND, now()).await.unwrap(), (10_003, Some(ago(60))));
}

async fn changes_come_in_the_order_of_commits(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.read().await.unwrap();
    let start = tx.last_job_change().await.unwrap();
    drop(tx);
    let first = queue(&database, &NewJob::new(&JOB, now())).await.unwrap();
    let look = |after| {
        let database = database.clone();
        async move {
            let mut tx = database.read().await.unwrap();
            let rows = tx.job_changes(&everything(), after, 10).await.unwrap();
            (
                rows.iter().map(|row| (row.id, row.state)).collect::<Vec<_>>(),
                rows.last().map(kkartifact_store::JobViewRow::place),
            )
        }
    };
    // PostgreSQL counts transactions of all its databases: while others write, changes are told a little later.
    let seen = |after| async move {
        for _ in 0..600 {
            let found = look(after).await;
            if found.1.is_some() {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("nothing was told");
    };
    let (rows, place) = seen(start).await;
    assert_eq!(rows, [(first, JobState::Queued)]);
    let mut place = place.unwrap();
    assert_eq!(place.to_string().parse::<kkartifact_store::ChangePlace>().unwrap(), place);
    assert_eq!(look(place).await, (vec![], None));

    // One that began earlier and commits later must not appear before what has been seen.
    if matches!(database, Database::Postgres(_)) {
        let mut slow = database.begin().await.unwrap();
        let early = slow.insert_job(&NewJob::new(&JOB, now()), now()).await.unwrap().unwrap();
        let late = queue(&database, &NewJob::new(&JOB, now())).await.unwrap();
        assert_eq!(look(place).await, (vec![], None), "not before everything before it is known");
        slow.commit().await.unwrap();
        let (rows, next) = seen(place).await;
        assert_eq!(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [early, late]);
        place = next.unwrap();
    }
    let row = claim(&database, first, "one").await.unwrap();
    let mut tx = database.begin().await.unwrap();
    tx.beat_jobs(&[first], "one").await.unwrap();
    tx.commit().await.unwrap();
    let (rows, place) = seen(place).await;
    assert_eq!(rows.last(), Some(&(first, JobState::Running)));
    let place = place.unwrap();
    let mut tx = database.begin().await.unwrap();
    tx.beat_jobs(&[first], "one").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(look(place).await.0, [], "a heartbeat is no change");
    assert!(end(&database, &row, JobState::Succeeded).await);
    assert_eq!(seen(place).await.0, [(first, JobState::Succeeded)]);
}
