//! What compaction takes for freed.

use kkartifact_testkit::tree::{noise, write};
use kkartifact_testkit::{TestAgent, TestDatabase, TestServer, on_both_databases};
use serde_json::json;

use crate::{FILE, by_hand, collect_later, delete, find};

/// How many files the first version of each app has: a pack of as many chunks.
const FILES: u64 = 10;

/// Pushes two versions of an app, of which the second one has only so many files of the first one, and deletes that.
async fn push(server: &TestServer, app: &str, seed: u64, left: u64) {
    let agent = TestAgent::new(server, app, &server.admin).with(|config| config.max_shrink = 100);
    for (version, files) in [("v1", FILES), ("v2", left)] {
        let build = server.dir().join(format!("{seed}-{version}"));
        for i in 0..files {
            write(&build, &format!("f{i}"), &noise(seed + i, FILE));
        }
        agent.push(&build, version).await.unwrap();
    }
    let (project, name) = app.split_once('/').unwrap();
    delete(server, &format!("/projects/{project}/apps/{name}/versions/v1"), 200).await;
}

async fn what_could_not_be_compacted_does_not_count_as_freed(db: TestDatabase) {
    // Without the worst of the two packs so much would be dead that the other one could stay.
    let server = by_hand(db, |config| config.gc.dead_percent = 48).await;
    push(&server, "shop/web", 100, 1).await;
    push(&server, "shop/api", 200, 5).await;
    // But what is needed of it can't be read.
    let (pack, at) = find(&server, &noise(100, FILE)).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[at + 10] ^= 1;
    std::fs::write(&pack, bytes).unwrap();

    let result = collect_later(&server).await;
    assert_eq!((&result["purged"], &result["skipped"]), (&json!(2), &json!(1)), "{result}");
    assert_eq!(result["compacted"], 1, "{result}");
    collect_later(&server).await;
    assert!(find(&server, &noise(109, FILE)).is_some(), "what can't be read stays as it is");
    assert!(find(&server, &noise(209, FILE)).is_none(), "what nobody needs of the other pack is there");
    for i in 0..5 {
        let path = format!("/file/shop/api/v2?path=f{i}");
        assert!(server.get(&path, &server.admin).await.expect(200).body == noise(200 + i, FILE), "{path}");
    }
}

on_both_databases! {
    what_could_not_be_compacted_does_not_count_as_freed,
}
