//! What the streams are for: only what is missing moves, and a manifest can be a difference.

use kkartifact_model::TreePath;
use kkartifact_model::manifest::{
    Entry, ManifestBuilder, Record, RecordReader, RecordWriter, RefSet, TreeLimits,
};
use kkartifact_model::wire::{Frame, FrameReader, encode_end, encode_records};
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

use super::{Upload, directory, fetch, file, missing};

async fn only_what_is_missing_has_to_be_sent(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (a, b, c) = (noise(1, 40_000), noise(2, 50_000), b"text ".repeat(1000));
    let entries = [file("big", &[&a, &b, &a]), directory("d"), file("d/text", &[&c])];
    let upload = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    assert_eq!(missing(&upload.manifest(&entries).await.expect(200).json()), [0, 1, 2, 3]);
    upload.finish().await.refused(409, "upload_incomplete");
    let received = upload.chunks(&[&a, &c]).await.expect(200).json();
    assert_eq!((received["received"].as_u64(), received["durable"].as_u64()), (Some(2), Some(2)));
    assert_eq!(upload.missing().await, [1], "what has arrived need not be sent again");
    upload.finish().await.refused(409, "upload_incomplete");
    upload.chunks(&[&b]).await.expect(200);
    upload.chunks(&[&b]).await.expect(200);
    upload.finish().await.expect(201);

    let next = Upload::open(&server, "shop/web", "v2", &server.admin).await;
    let changed = [file("big", &[&a, &c, &b])];
    assert_eq!(missing(&next.manifest(&changed).await.expect(200).json()), [] as [u64; 0]);
    next.finish().await.expect(201);
    let mut wanted = RefSet::new(4);
    for index in [0, 1, 3] {
        wanted.insert(index);
    }
    assert_eq!(fetch(&server, "/chunks/shop/web/v1", &wanted, &server.admin).await, [a, b, c]);
}

async fn knowing_a_digest_grants_no_bytes(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secret = noise(7, 60_000);
    server.make_app("shop", "web").await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    server.make_app("other", "app").await;
    let owner = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    owner.manifest(&[file("secret", &[&secret])]).await.expect(200);
    owner.chunks(&[&secret]).await.expect(200);
    owner.finish().await.expect(201);

    for app in ["shop/api", "other/app"] {
        let token = server.token(&["push", "pull"], app).await;
        let thief = Upload::open(&server, app, "v1", &token).await;
        // All that the thief knows is the digest. To them, the content is missing like any other.
        assert_eq!(
            missing(&thief.manifest(&[file("stolen", &[&secret])]).await.expect(200).json()),
            [0],
            "{app}"
        );
        thief.finish().await.refused(409, "upload_incomplete");
        server.get(&format!("/file/{app}/v1?path=stolen"), &token).await.refused(404, "not_found");
        // Who has the bytes may store them, of course, and then only they have them.
        thief.chunks(&[&secret]).await.expect(200);
        thief.finish().await.expect(201);
        server.get("/file/shop/web/v1?path=secret", &token).await.refused(404, "not_found");
    }
}

async fn a_manifest_can_be_told_by_a_base(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let texts: Vec<Vec<u8>> = (0..300).map(|i| format!("content {i}").into_bytes()).collect();
    let old: Vec<Entry> = (0..300).map(|i| file(&format!("f{i:03}"), &[&texts[i]])).collect();
    let first = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    first.manifest(&old).await.expect(200);
    first.chunks(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>()).await.expect(200);
    let v1 = first.finish().await.expect(201).json();

    let mut new = old.clone();
    new[7] = file("f007", &[b"changed"]);
    new.remove(250);
    new.push(file("z", &[b"added"]));
    let mut builder = ManifestBuilder::new(TreeLimits::default());
    for entry in &new {
        builder.push(entry).unwrap();
    }
    let digest = builder.finish().1.tree_digest;
    let base = json!({ "tree_digest": digest, "base": { "version": "v1", "manifest_digest": v1["manifest_digest"] } });
    let second = Upload::open_with(&server, "shop/web", "v2", &server.admin, base.clone()).await;
    let mut records = RecordWriter::default();
    let changes = [
        Record::Put(new[7].clone()),
        Record::Removed(TreePath::new("f250").unwrap()),
        Record::Put(new.last().unwrap().clone()),
    ];
    for change in &changes {
        records.push(change);
    }
    let delta = [encode_records(&records.take()), encode_end(3)].concat();
    let missing_refs = missing(&second.stream(Method::PUT, "manifest", delta).await.expect(200).json());
    assert_eq!(missing_refs, [7, 299]);
    second.chunks(&[b"changed", b"added"]).await.expect(200);
    let v2 = second.finish().await.expect(201).json();
    assert_eq!((v2["file_count"].as_u64(), &v2["tree_digest"]), (Some(300), &json!(digest)));

    // The delta back is as short, and makes the same tree.
    let path = "/manifest/shop/web/v2?format=stream&base=v1&base_digest=";
    let answer =
        server.get(&format!("{path}{}", v1["manifest_digest"].as_str().unwrap()), &server.admin).await;
    let mut reader = FrameReader::default();
    reader.push(&answer.expect(200).body);
    let Frame::Records(run) = reader.next_frame().unwrap().unwrap() else { panic!("records") };
    let told: Vec<_> = RecordReader::new(&run).map(Result::unwrap).collect();
    assert_eq!(told, changes);
    let stranger = "0".repeat(64);
    server.get(&format!("{path}{stranger}"), &server.admin).await.refused(409, "base_mismatch");
    server
        .get("/manifest/shop/web/v2?format=stream&base=v1", &server.admin)
        .await
        .refused(400, "invalid_request");

    // A base that is not what the client thinks is not used; changes that don't fit it are refused.
    let mut wrong = base;
    wrong["base"]["manifest_digest"] = json!(stranger);
    wrong["project"] = json!("shop");
    wrong["app"] = json!("web");
    wrong["version"] = json!("v3");
    let opened = server.post("/upload/init", &server.admin, wrong).await.expect(201).json();
    assert_eq!(opened["base"], false);
    let third = Upload::open_with(
        &server,
        "shop/web",
        "v4",
        &server.admin,
        json!({ "base": { "version": "v1", "manifest_digest": v1["manifest_digest"] } }),
    )
    .await;
    let mut records = RecordWriter::default();
    records.push(&Record::Removed(TreePath::new("never-there").unwrap()));
    let delta = [encode_records(&records.take()), encode_end(1)].concat();
    third.stream(Method::PUT, "manifest", delta).await.refused(422, "invalid_manifest");
}

async fn an_announced_digest_must_be_the_manifests(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let more = json!({ "tree_digest": "1".repeat(64) });
    let upload = Upload::open_with(&server, "shop/web", "v1", &server.admin, more).await;
    upload.manifest(&[file("a", &[])]).await.refused(422, "invalid_manifest");
    upload.finish().await.refused(409, "upload_incomplete");
    let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", &server.admin).body("x");
    server.send(put).await.expect(200);
    upload.finish().await.refused(422, "invalid_manifest");
    server.get("/projects/shop/apps/web/versions/v1", &server.admin).await.refused(404, "not_found");
}

on_both_databases! {
    only_what_is_missing_has_to_be_sent,
    knowing_a_digest_grants_no_bytes,
    a_manifest_can_be_told_by_a_base,
    an_announced_digest_must_be_the_manifests,
}
