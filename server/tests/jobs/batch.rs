//! Batch queries that are answered at once: an entry for each app, in the order of the question.

use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{done, items, promote, push, shop, text};

/// A question about apps (`shop/web`), with more in it.
fn query(apps: &[&str], more: &Value) -> Value {
    let named = |app: &&str| {
        let (project, name) = app.split_once('/').unwrap();
        json!({ "project": project, "app": name })
    };
    let mut query = json!({ "apps": apps.iter().map(named).collect::<Vec<_>>() });
    query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    query
}

/// The entries of an answer: app, versions, and error.
async fn ask(server: &TestServer, by: &str, apps: &[&str], more: Value) -> Vec<(String, Vec<String>, Value)> {
    let answer = server.post("/batch/versions", by, query(apps, &more)).await.expect(200).json();
    let entry = |entry: &Value| {
        let versions =
            entry["versions"].as_array().unwrap().iter().map(|one| text(&one["version"])).collect();
        (format!("{}/{}", text(&entry["project"]), text(&entry["app"])), versions, entry["error"].clone())
    };
    items(&answer).iter().map(entry).collect()
}

/// Just the versions of each.
async fn versions(server: &TestServer, apps: &[&str], more: Value) -> Vec<Vec<String>> {
    ask(server, &server.admin, apps, more).await.into_iter().map(|(_, versions, _)| versions).collect()
}

async fn with_versions(server: &TestServer) {
    for version in ["v1", "v2", "v3"] {
        push(server, "shop/web", version).await;
        server.clock.advance(chrono::TimeDelta::seconds(1));
    }
    push(server, "other/app", "v7").await;
}

async fn each_app_has_its_entry_in_the_order_of_the_question(db: TestDatabase) {
    let server = shop(db).await;
    with_versions(&server).await;
    let long = format!("shop/{}", "x".repeat(1000));
    let apps = [
        "other/app",
        "shop/web",
        "nix/web",
        "shop/nix",
        "shop/web",
        "shop/api",
        "../etc",
        "shop/a b",
        "/",
        &long,
        "shop/ü",
        "other/app",
    ];
    let found = ask(&server, &server.admin, &apps, json!({})).await;
    assert_eq!(found.iter().map(|(app, ..)| app.as_str()).collect::<Vec<_>>(), apps);
    for (app, versions, error) in &found {
        let expected: &[&str] = match app.as_str() {
            "shop/web" => &["v3"],
            "other/app" => &["v7"],
            _ => &[],
        };
        assert_eq!(versions, expected, "{app}");
        let known = ["shop/web", "shop/api", "other/app"].contains(&app.as_str());
        assert_eq!(error, &if known { json!(null) } else { json!("not_found") }, "{app}");
    }
    // A version is what it is elsewhere.
    let answer = server.post("/batch/versions", &server.admin, query(&["shop/web"], &json!({}))).await.json();
    let one = server.get("/projects/shop/apps/web/versions/v3", &server.admin).await.expect(200).json();
    assert_eq!(answer["items"][0]["versions"][0], one);
}

async fn what_one_may_not_see_is_not_there(db: TestDatabase) {
    let server = shop(db).await;
    with_versions(&server).await;
    let apps = ["shop/web", "other/app", "other/nix", "nix/nix", "shop/api"];
    let of_web = server.token(&["view"], "shop/web").await;
    let found = ask(&server, &of_web, &apps, json!({})).await;
    let errors: Vec<_> = found.iter().map(|(_, _, error)| error.clone()).collect();
    assert_eq!(json!(errors), json!([null, "not_found", "not_found", "not_found", "not_found"]));
    assert_eq!(found[0].1, ["v3"]);
    assert!(found[1..].iter().all(|(_, versions, _)| versions.is_empty()), "{found:?}");
    server.post("/batch/versions", "", query(&apps, &json!({}))).await.refused(401, "unauthenticated");
}

async fn versions_are_the_newest_that_can_be_had(db: TestDatabase) {
    let server = shop(db).await;
    with_versions(&server).await;
    let apps = ["shop/web", "other/app"];
    assert_eq!(versions(&server, &apps, json!({ "limit": 2 })).await, [vec!["v3", "v2"], vec!["v7"]]);
    assert_eq!(versions(&server, &apps, json!({ "limit": 100 })).await[0], ["v3", "v2", "v1"]);
    let path = "/projects/shop/apps/web/versions/v3";
    done(server.call(Method::DELETE, path, &server.admin, None).await);
    assert_eq!(versions(&server, &apps, json!({})).await, [vec!["v2"], vec!["v7"]]);
}

async fn a_channel_a_label_and_a_commit_choose_versions(db: TestDatabase) {
    let server = shop(db).await;
    with_versions(&server).await;
    promote(&server, "v1").await;
    let apps = ["shop/web", "other/app", "nix/nix"];
    let of_channel = ask(&server, &server.admin, &apps, json!({ "channel": "stable", "limit": 5 })).await;
    assert_eq!((of_channel[0].1.as_slice(), &of_channel[0].2), (&["v1".to_owned()][..], &json!(null)));
    assert!(of_channel[1].1.is_empty() && of_channel[1].2.is_null(), "no such channel: {of_channel:?}");
    assert_eq!(of_channel[2].2, "not_found");

    for (version, labels) in [("v1", json!({ "tier": "gold", "os": "" })), ("v2", json!({ "tier": "tin" }))] {
        let path = format!("/projects/shop/apps/web/versions/{version}");
        let change = Some(json!({ "labels": labels }));
        server.call(Method::PATCH, &path, &server.admin, change).await.expect(200);
    }
    for (label, expected) in [
        ("tier", vec!["v2", "v1"]),
        ("tier=gold", vec!["v1"]),
        ("tier=tin", vec!["v2"]),
        ("tier=g", vec![]),
        ("tie", vec![]),
        ("os=", vec!["v1"]),
        ("tier=%", vec![]),
    ] {
        let found = versions(&server, &apps, json!({ "label": label, "limit": 10 })).await;
        assert_eq!(found[0], expected, "{label}");
        assert!(found[1].is_empty(), "{label}");
    }

    let build = json!({ "git_commit": "0123abc" });
    let init = json!({ "project": "shop", "app": "api", "version": "v1", "build": build });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let put = server.request(Method::PUT, "/file/shop/api/v1?path=a", &server.admin).body("content");
    server.send(put).await.expect(200);
    let finish = json!({ "upload_id": opened["upload_id"] });
    server.post("/upload/finish", &server.admin, finish).await.expect(201);
    let apps = ["shop/web", "shop/api"];
    let of_commit = versions(&server, &apps, json!({ "git_commit": "0123abc" })).await;
    assert_eq!(of_commit, [vec![], vec!["v1"]]);
    assert!(versions(&server, &apps, json!({ "git_commit": "0123" })).await.concat().is_empty());
    let both = json!({ "label": "tier", "channel": "stable", "limit": 5 });
    assert_eq!(versions(&server, &["shop/web"], both).await, [vec!["v1"]]);
}

async fn questions_have_a_size_and_a_form(db: TestDatabase) {
    let server = shop(db).await;
    let good = ["shop/web"];
    for bad in [
        query(&[], &json!({})),
        json!({}),
        json!({ "apps": "shop/web" }),
        json!({ "apps": ["shop/web"] }),
        json!({ "apps": [{ "project": "shop" }] }),
        json!({ "apps": [{ "project": "shop", "app": "web", "version": "v1" }] }),
        json!({ "apps": [{ "project": 1, "app": "web" }] }),
        query(&good, &json!({ "limit": 0 })),
        query(&good, &json!({ "limit": 101 })),
        query(&good, &json!({ "limit": -1 })),
        query(&good, &json!({ "channel": "a/b" })),
        query(&good, &json!({ "label": "" })),
        query(&good, &json!({ "label": "=gold" })),
        query(&good, &json!({ "deleted": true })),
    ] {
        let answer = server.post("/batch/versions", &server.admin, bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    let apps = vec!["shop/web"; 500];
    assert_eq!(ask(&server, &server.admin, &apps, json!({})).await.len(), 500);
    let apps = vec!["shop/web"; 10_001];
    server.post("/batch/versions", &server.admin, query(&apps, &json!({}))).await.refused(413, "too_large");
}

on_both_databases! {
    each_app_has_its_entry_in_the_order_of_the_question,
    what_one_may_not_see_is_not_there,
    versions_are_the_newest_that_can_be_had,
    a_channel_a_label_and_a_commit_choose_versions,
    questions_have_a_size_and_a_form,
}
