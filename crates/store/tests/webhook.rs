//! What attempts to deliver say of a webhook, also when many end at the same time, on both databases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::webhook::{DeliveryState, WebhookFormat};
use kkartifact_store::{Database, DeliveryAttemptRow, NewDelivery, NewWebhookRow, Tx, WebhookRow};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use uuid::Uuid;

on_both_databases! {
    a_success_wins_over_a_failure_that_is_just_recorded,
    a_success_that_finds_the_row_in_other_hands_is_said_again,
    what_works_in_the_end_is_not_failing_however_many_attempts_end_together,
    a_failure_of_ours_says_nothing_of_the_receiver,
}

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// A webhook of everything.
#[derive(Clone)]
struct World {
    database: Database,
    id: Uuid,
    webhook: i64,
}

impl World {
    async fn new(files: &TestDatabase) -> Self {
        let (database, id) = (files.open().await, Uuid::new_v4());
        let new = NewWebhookRow {
            name: "hook",
            url: "https://hooks.example.com/x",
            format: WebhookFormat::Standard,
            events: &["*".to_owned()],
            headers: None,
            secrets: None,
            enabled: true,
            declared: false,
        };
        let mut tx = database.begin().await.unwrap();
        assert!(tx.insert_webhook(id, (None, None), &new, now()).await.unwrap());
        let webhook = tx.find_webhook(id).await.unwrap().unwrap().seq;
        tx.commit().await.unwrap();
        Self { database, id, webhook }
    }

    async fn tx(&self) -> Tx {
        self.database.begin().await.unwrap()
    }

    async fn row(&self) -> WebhookRow {
        let mut tx = self.database.read().await.unwrap();
        tx.find_webhook(self.id).await.unwrap().unwrap()
    }

    /// A new delivery; its row number.
    async fn delivery(&self) -> i64 {
        let new = NewDelivery { webhook: self.webhook, event: None, kind: "test", trace_parent: None };
        let mut tx = self.tx().await;
        let row = tx.insert_delivery(&new, now()).await.unwrap();
        tx.commit().await.unwrap();
        row.seq
    }

    /// What came of an attempt.
    fn attempt(&self, delivery: i64, state: DeliveryState) -> DeliveryAttemptRow {
        let delivered = state == DeliveryState::Delivered;
        DeliveryAttemptRow {
            delivery,
            webhook: self.webhook,
            state,
            at: now(),
            latency_ms: 1,
            url: "https://hooks.example.com/x".to_owned(),
            request: "{}".to_owned(),
            status: delivered.then_some(200),
            response: None,
            error: (!delivered).then(|| "no".to_owned()),
            ours: false,
        }
    }

    /// Records that an attempt failed.
    async fn fails(&self, delivery: i64) {
        let mut tx = self.tx().await;
        tx.record_delivery_attempt(&self.attempt(delivery, DeliveryState::Pending)).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Records that something was delivered, as whoever ends jobs does it.
    async fn succeeds(&self, delivery: i64) {
        let mut tx = self.tx().await;
        tx.record_delivery_attempt(&self.attempt(delivery, DeliveryState::Delivered)).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = self.database.read().await.unwrap();
        let failing = tx.failing_webhooks(&[self.webhook]).await.unwrap();
        tx.commit().await.unwrap();
        for webhook in failing {
            let mut tx = self.tx().await;
            tx.webhook_works(webhook).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    /// Waits until a delivery is seen as delivered. PostgreSQL only: with SQLite nobody writes beside somebody else.
    async fn until_delivered(&self, delivery: i64) {
        if matches!(self.database, Database::Sqlite { .. }) {
            return;
        }
        for _ in 0..6000 {
            let mut tx = self.database.read().await.unwrap();
            if tx.due_delivery(delivery).await.unwrap().unwrap().state == DeliveryState::Delivered {
                return;
            }
            drop(tx);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("the success was never recorded");
    }

    /// Whether the server would disable it as one that has failed for long enough.
    async fn would_be_disabled(&self) -> bool {
        let mut tx = self.tx().await;
        tx.disable_webhook(self.webhook, "failing", Some(now() + TimeDelta::days(9)), now()).await.unwrap()
    }
}

/// One failure is on record, and another one is recorded while the success is.
async fn a_success_wins_over_a_failure_that_is_just_recorded(files: TestDatabase) {
    let world = World::new(&files).await;
    let [first, second, third] = [world.delivery().await, world.delivery().await, world.delivery().await];
    world.fails(first).await;
    assert_eq!(world.row().await.failing_since, Some(now()));

    let mut failure = world.tx().await;
    failure.record_delivery_attempt(&world.attempt(second, DeliveryState::Pending)).await.unwrap();
    let success = tokio::spawn({
        let world = world.clone();
        async move { world.succeeds(third).await }
    });
    world.until_delivered(third).await;
    failure.commit().await.unwrap();
    success.await.unwrap();
    assert_eq!(world.row().await.failing_since, None);
    assert!(!world.would_be_disabled().await);
}

/// Somebody changes the webhook while the success is recorded.
async fn a_success_that_finds_the_row_in_other_hands_is_said_again(files: TestDatabase) {
    let world = World::new(&files).await;
    let [first, second] = [world.delivery().await, world.delivery().await];
    world.fails(first).await;
    let mut change = world.tx().await;
    change.lock_webhook(world.id).await.unwrap();
    let success = tokio::spawn({
        let world = world.clone();
        async move { world.succeeds(second).await }
    });
    world.until_delivered(second).await;
    change.commit().await.unwrap();
    success.await.unwrap();
    assert_eq!(world.row().await.failing_since, None);
    assert!(!world.would_be_disabled().await);
}

async fn what_works_in_the_end_is_not_failing_however_many_attempts_end_together(files: TestDatabase) {
    let world = World::new(&files).await;
    for _ in 0..5 {
        let mut ends = Vec::new();
        for number in 0..12 {
            let (world, delivery) = (world.clone(), world.delivery().await);
            ends.push(tokio::spawn(async move {
                // Every other one fails at first, and is tried again.
                if number % 2 == 0 {
                    world.fails(delivery).await;
                }
                world.succeeds(delivery).await;
            }));
        }
        for end in ends {
            end.await.unwrap();
        }
        assert_eq!(world.row().await.failing_since, None);
        assert!(!world.would_be_disabled().await);
    }
    world.fails(world.delivery().await).await;
    assert!(world.would_be_disabled().await, "what fails still is");
}

async fn a_failure_of_ours_says_nothing_of_the_receiver(files: TestDatabase) {
    let world = World::new(&files).await;
    let delivery = world.delivery().await;
    let ours = DeliveryAttemptRow { ours: true, ..world.attempt(delivery, DeliveryState::Pending) };
    let mut tx = world.tx().await;
    tx.record_delivery_attempt(&ours).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.row().await.failing_since, None);
    assert!(!world.would_be_disabled().await);
    // It is in the log all the same.
    let mut tx = world.database.read().await.unwrap();
    let due = tx.due_delivery(delivery).await.unwrap().unwrap();
    assert_eq!(due.state, DeliveryState::Pending);
    let row = tx.find_delivery(world.webhook, due.id).await.unwrap().unwrap();
    let log = tx.describe_delivery(row, 10).await.unwrap().log;
    assert_eq!((log.len(), log[0].error.as_deref()), (1, Some("no")));
    drop(tx);
    // Nor is it a success.
    world.fails(delivery).await;
    let mut tx = world.tx().await;
    tx.record_delivery_attempt(&ours).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.row().await.failing_since, Some(now()));
}
