//! What the documentation tells people to type does what it says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use kkartifact_service::bootstrap;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};

async fn the_curl_example_of_the_protocol_works_as_it_stands(db: TestDatabase) {
    let server = TestServer::start(db).await;
    // The test server's first admin is forgotten: the example begins with a new server.
    let secret = bootstrap::again(server.resources()).await.unwrap();
    let text = include_str!("../../docs/protocol.md");
    let example = text.split("## The simple way, with curl").nth(1).unwrap();
    let example = example.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(example.contains("URL=http://127.0.0.1:8420/api/v1") && example.contains("SECRET=…"));
    let script = example
        .replace("http://127.0.0.1:8420", &server.url)
        .replace("SECRET=…", &format!("SECRET={secret}"));
    let work = server.dir().join("work");
    std::fs::create_dir(&work).unwrap();
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).current_dir(&work);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    assert_eq!(std::fs::read(work.join("ls")).unwrap(), std::fs::read("/bin/ls").unwrap());
    assert_eq!(std::fs::metadata(work.join("first-hundred-bytes")).unwrap().len(), 100);
    let stable = server.get("/manifest/shop/web/@stable", &server.admin).await.expect(200).text();
    assert!(stable.contains("bin/ls") && stable.contains("mode: \"0755\""), "{stable}");
}

on_both_databases! {
    the_curl_example_of_the_protocol_works_as_it_stands,
}
