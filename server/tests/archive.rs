//! Whole versions as archives: what is in them, who gets them, and that a part is never taken for the whole.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kkartifact_agent::push::PushOptions;
use kkartifact_model::api::version::VersionState;
use kkartifact_testkit::tree::{Node, chmod, noise, sample, snapshot, write};
use kkartifact_testkit::{Answer, TestAgent, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;

const ARCHIVE: &str = "/archive/shop/web/v1";
const FORMATS: [&str; 3] = ["tar.gz", "tar.zst", "zip"];
/// Before the first year that a zip knows.
const ANCIENT: u64 = 157_766_400;

/// A tree with everything that a version carries, and paths and times that formats have trouble with.
fn tree(server: &TestServer) -> PathBuf {
    let root = server.dir().join("source");
    fs::create_dir(&root).unwrap();
    sample(&root);
    write(&root, "bin/large", &noise(3, 3 << 20));
    write(&root, "bin/large.copy", &noise(3, 3 << 20));
    // Longer than a tar header's name, and longer than any of its parts.
    write(&root, &format!("{}/short", "a".repeat(99)), b"101 bytes");
    write(&root, &format!("{}/{}", "b".repeat(120), "ü".repeat(60)), b"long");
    let long = [["c".repeat(250).as_str(); 5].join("/").as_str(), "file"].join("/");
    write(&root, &long, b"longer");
    fs::create_dir_all(root.join("d".repeat(100))).unwrap();
    write(&root, "back\\slash\\/file", b"not a separator");
    symlink("./bin//app", root.join("untidy")).unwrap();
    symlink(&long, root.join("far")).unwrap();
    // More than are read together.
    for i in 0..700 {
        write(&root, &format!("many/{i:03}"), format!("{}", i / 2).as_bytes());
    }
    chmod(&root, "many/000", 0o444);
    write(&root, "ancient", b"old");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(ANCIENT);
    File::options().write(true).open(root.join("ancient")).unwrap().set_modified(time).unwrap();
    root
}

async fn push(server: &TestServer, root: &Path) {
    TestAgent::new(server, "shop/web", &server.admin).push(root, "v1").await.unwrap();
}

async fn get(server: &TestServer, path: &str, format: &str) -> Answer {
    server.get(&format!("{path}?format={format}"), &server.admin).await
}

/// What is in a tar: every path in the order of the archive, with its owner checked.
fn untar(bytes: &[u8]) -> Vec<(String, Node)> {
    let mut archive = tar::Archive::new(bytes);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0), "{path}");
        assert_eq!((header.username().unwrap(), header.groupname().unwrap()), (Some(""), Some("")));
        let (kind, mode) = (header.entry_type(), header.mode().unwrap());
        let seconds = i128::from(header.mtime().unwrap());
        let node = match kind {
            tar::EntryType::Regular => {
                let exact = exact_time(&mut entry).unwrap_or(seconds * 1_000_000_000);
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                Node::File(mode, content, exact)
            }
            tar::EntryType::Directory => {
                assert!(path.ends_with('/'), "{path}");
                Node::Directory(mode)
            }
            tar::EntryType::Symlink => {
                Node::Symlink(String::from_utf8(entry.link_name_bytes().unwrap().into_owned()).unwrap())
            }
            other => panic!("{path} is {other:?}"),
        };
        found.push((path.trim_end_matches('/').to_owned(), node));
    }
    found
}

/// Nanoseconds of the time in a pax header.
fn exact_time(entry: &mut tar::Entry<'_, &[u8]>) -> Option<i128> {
    let extensions = entry.pax_extensions().unwrap()?;
    let time = extensions.map(Result::unwrap).find(|extension| extension.key() == Ok("mtime"))?;
    let (seconds, nanos) = time.value().unwrap().split_once('.')?;
    Some(seconds.parse::<i128>().unwrap() * 1_000_000_000 + nanos.parse::<i128>().unwrap())
}

/// What is in a zip: every path in the order of the archive. Times have whole seconds.
fn unzip(bytes: &[u8]) -> Vec<(String, Node)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut found = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let path = entry.name().unwrap().into_owned();
        let (kind, mode) = (entry.unix_mode().unwrap() & 0o170_000, entry.unix_mode().unwrap() & 0o7777);
        let time = entry.extra_data_fields().find_map(|field| match field {
            zip::ExtraField::ExtendedTimestamp(times) => times.mod_time(),
            _ => None,
        });
        if path == "ancient" {
            assert_eq!(entry.last_modified().unwrap().to_string(), "1980-01-01 00:00:00");
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let node = match kind {
            0o100_000 => Node::File(mode, content, i128::from(time.unwrap()) * 1_000_000_000),
            0o040_000 => {
                assert!(path.ends_with('/') && content.is_empty(), "{path}");
                Node::Directory(mode)
            }
            0o120_000 => Node::Symlink(String::from_utf8(content).unwrap()),
            other => panic!("{path} is {other:o}"),
        };
        found.push((path.trim_end_matches('/').to_owned(), node));
    }
    found
}

fn unpack(format: &str, bytes: &[u8]) -> Vec<(String, Node)> {
    match format {
        "tar.gz" => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
            untar(&plain)
        }
        "tar.zst" => untar(&zstd::stream::decode_all(bytes).unwrap()),
        _ => unzip(bytes),
    }
}

/// The same with whole seconds.
fn in_seconds(tree: BTreeMap<String, Node>) -> BTreeMap<String, Node> {
    let cut = |node| match node {
        Node::File(mode, content, time) => {
            Node::File(mode, content, time.div_euclid(1_000_000_000) * 1_000_000_000)
        }
        other => other,
    };
    tree.into_iter().map(|(path, node)| (path, cut(node))).collect()
}

async fn an_archive_is_what_was_pushed(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let root = tree(&server);
    push(&server, &root).await;
    let pushed = snapshot(&root);
    for format in FORMATS {
        let answer = get(&server, ARCHIVE, format).await.expect(200);
        let kind = match format {
            "tar.gz" => "application/gzip",
            "tar.zst" => "application/zstd",
            _ => "application/zip",
        };
        assert_eq!(answer.header("content-type"), kind);
        let disposition = format!("attachment; filename=\"web-v1.{format}\"");
        assert_eq!(answer.header("content-disposition"), disposition);
        assert_eq!(answer.header("cache-control"), "private, no-store");
        let unpacked = unpack(format, &answer.body);
        let paths: Vec<&str> = unpacked.iter().map(|(path, _)| path.as_str()).collect();
        assert!(paths.is_sorted_by(|a, b| kkartifact_model::path::compare(a, b).is_lt()), "{format}");
        let expected = if format == "zip" { in_seconds(pushed.clone()) } else { pushed.clone() };
        let found: BTreeMap<String, Node> = unpacked.into_iter().collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{format}");
        for (path, node) in &expected {
            assert!(found[path] == *node, "{format}: {path} differs");
        }
        let again = get(&server, ARCHIVE, format).await.expect(200);
        assert!(again.body == answer.body, "{format} is the same bytes each time");
    }
    let default = server.get(ARCHIVE, &server.admin).await.expect(200);
    assert_eq!(default.header("content-type"), "application/gzip");
    let latest = get(&server, "/archive/shop/web/@latest", "zip").await.expect(200);
    assert_eq!(latest.header("content-disposition"), "attachment; filename=\"web-v1.zip\"");
}

async fn the_systems_own_tar_unpacks_it(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let root = tree(&server);
    push(&server, &root).await;
    let archive = server.dir().join("web.tar.gz");
    fs::write(&archive, get(&server, ARCHIVE, "tar.gz").await.expect(200).body).unwrap();
    let target = server.dir().join("unpacked");
    fs::create_dir(&target).unwrap();
    let mut command = std::process::Command::new("tar");
    command.arg("-xpzf").arg(&archive).arg("-C").arg(&target);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    kkartifact_testkit::tree::assert_same(&root, &target);
}

async fn a_known_archive_is_not_sent_again(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    server.push_files("shop/web", "v2", &server.admin, &[("a", b"y")]).await.expect(201);
    let mut tags = Vec::new();
    for format in FORMATS {
        let tag = get(&server, ARCHIVE, format).await.expect(200).header("etag").to_owned();
        let path = format!("{ARCHIVE}?format={format}");
        let request = server.request(Method::GET, &path, &server.admin).header("if-none-match", &tag);
        let unchanged = server.send(request).await.expect(304);
        assert!(unchanged.body.is_empty() && unchanged.header("etag") == tag);
        let head = server.call(Method::HEAD, &path, &server.admin, None).await.expect(200);
        assert!(head.body.is_empty() && head.header("etag") == tag);
        let other = get(&server, "/archive/shop/web/v2", format).await.expect(200);
        tags.extend([tag, other.header("etag").to_owned()]);
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 6, "each version and format has a tag of its own");
}

async fn what_may_not_be_read_is_not_archived(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    server.push_files("other/app", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    server.get(ARCHIVE, "").await.refused(401, "unauthenticated");
    let view = server.token(&["view"], "shop/web").await;
    server.get(ARCHIVE, &view).await.refused(403, "forbidden");
    let other = server.token(&["pull"], "other/app").await;
    server.get(ARCHIVE, &other).await.refused(404, "not_found");
    let pull = server.token(&["pull"], "shop/web").await;
    server.get(ARCHIVE, &pull).await.expect(200);
    server.get("/archive/shop/web/v2", &pull).await.refused(404, "not_found");
    server.get("/archive/other/app/v1", &pull).await.refused(404, "not_found");

    let unknown = get(&server, ARCHIVE, "rar").await;
    let message = unknown.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(FORMATS.iter().all(|format| message.contains(format)), "{message}");
    unknown.refused(400, "invalid_request");
    server.get(&format!("{ARCHIVE}?surprise=1"), &pull).await.refused(400, "invalid_request");

    for (state, status, code) in [
        (VersionState::Quarantined, 403, "version_quarantined"),
        (VersionState::Archived, 410, "version_archived"),
        (VersionState::Deleted, 410, "version_deleted"),
        (VersionState::Purged, 410, "version_deleted"),
    ] {
        let mut tx = server.resources().db.begin().await.unwrap();
        let row = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
        let version = tx.find_version(row.id, &"v1".parse().unwrap()).await.unwrap().unwrap();
        if state == VersionState::Archived {
            tx.archive_version(version.id).await.unwrap();
        } else {
            tx.set_version_state(version.id, state).await.unwrap();
        }
        tx.commit().await.unwrap();
        for format in FORMATS {
            get(&server, ARCHIVE, format).await.refused(status, code);
        }
    }
}

async fn a_read_of_an_archive_is_audited(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    get(&server, ARCHIVE, "zip").await.expect(200);
    // What was counted is written at the stop.
    server.restart_with(|_| {}).await;
    let rows = server.get("/audit?action=archive.get", &server.admin).await.expect(200).json();
    assert_eq!(rows["items"][0]["version"], "v1", "{rows}");
}

async fn an_archive_that_breaks_off_has_no_end(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let content: Vec<Vec<u8>> = (0..8).map(|seed| noise(seed, 900_000)).collect();
    let names: Vec<String> = (0..8).map(|i| format!("f{i}")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(content.iter().map(Vec::as_slice)).collect();
    server.push_files("shop/web", "v1", &server.admin, &files).await.expect(201);
    // The last file is damaged, when the others are on their way.
    let begin = &content[7][..64];
    let parts = fs::read_dir(server.content_dir().join("packs")).unwrap().map(|part| part.unwrap().path());
    for pack in parts.flat_map(|part| fs::read_dir(part).unwrap()).map(|pack| pack.unwrap().path()) {
        let mut bytes = fs::read(&pack).unwrap();
        if let Some(at) = bytes.windows(begin.len()).position(|window| window == begin) {
            bytes[at + 10] ^= 1;
            fs::write(&pack, bytes).unwrap();
        }
    }
    for format in FORMATS {
        let path = format!("{ARCHIVE}?format={format}");
        let mut response = server.request(Method::GET, &path, &server.admin).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut received = Vec::new();
        let broken = loop {
            match response.chunk().await {
                Ok(Some(piece)) => received.extend_from_slice(&piece),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(broken, "{format}: the connection is cut");
        assert!(received.len() > 1_000_000, "{format}: only {} bytes came", received.len());
        let mut plain = Vec::new();
        let whole = match format {
            "tar.gz" => flate2::read::GzDecoder::new(received.as_slice()).read_to_end(&mut plain).is_ok(),
            "tar.zst" => zstd::stream::decode_all(received.as_slice()).is_ok(),
            _ => zip::ZipArchive::new(Cursor::new(received)).is_ok(),
        };
        assert!(!whole, "{format}: what came is not a whole archive");
    }
}

async fn a_version_without_files_is_an_archive_too(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let root = server.dir().join("source");
    fs::create_dir_all(root.join("only/this")).unwrap();
    let agent = TestAgent::new(&server, "shop/web", &server.admin).agent;
    let version = Some("v1".parse().unwrap());
    let options = PushOptions { path: root, version, force: true, dry_run: false };
    kkartifact_agent::push::push(&agent, &options).await.unwrap();
    for format in FORMATS {
        let answer = get(&server, ARCHIVE, format).await.expect(200);
        let paths: Vec<String> = unpack(format, &answer.body).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["only", "only/this"], "{format}");
    }
}

on_both_databases! {
    an_archive_is_what_was_pushed,
    the_systems_own_tar_unpacks_it,
    a_known_archive_is_not_sent_again,
    what_may_not_be_read_is_not_archived,
    a_read_of_an_archive_is_audited,
    an_archive_that_breaks_off_has_no_end,
    a_version_without_files_is_an_archive_too,
}
