//! One process with SQLite, which is killed again and again.

use kkartifact_testkit::TestDatabase;

use crate::world::{RECEIVERS, World, environment};
use crate::{Form, check};

/// How many deliveries there are for each time that the server dies, about.
const FOR_EACH: usize = 80;

pub(crate) async fn run(form: Form) {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut server) = World::start(dir.path(), &environment(dir.path()), form.dice).await;
    // No more often than a delivery is tried, in case one is always in hand.
    let rounds = (form.deliveries / FOR_EACH).clamp(6, 10);
    for round in 0..rounds {
        world.begin_round(round, form.deliveries.div_ceil(RECEIVERS.len() * rounds)).await;
        server.kill();
        server.restart().await;
    }
    let database = TestDatabase::at(&dir.path().join("data/kkartifact.db"));
    check::everything("embedded", world, &database).await;
}
