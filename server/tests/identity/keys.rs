//! The keys that sign: shown, replaced, ended, and worth nothing to who has only the database.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use futures_util::future::join_all;
use kkartifact_store::SigningKeyRow;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::forgery::{claims_of, part, principal_of, sign};
use crate::someone::{Robot, done, log_in, make_person, text};

/// How PKCS #8 says that a private key is one for RSA.
const RSA_OID: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// How long a key verifies after another one signs: as long as a session, and five minutes.
const OVERLAP: TimeDelta = TimeDelta::minutes(12 * 60 + 5);

async fn public_keys_are_published_without_their_private_halves(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let token = robot.token(&server).await;
    let answer = server.get("/.well-known/jwks.json", "").await.expect(200);
    assert!(answer.header("content-type").starts_with("application/json"), "{:?}", answer.headers);
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 1);
    let names: BTreeSet<_> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["alg", "e", "kid", "kty", "n", "use"]), "no part of a private key");
    let said = ["kty", "use", "alg", "e"].map(|name| keys[0][name].as_str().unwrap());
    assert_eq!(said, ["RSA", "sig", "RS256", "AQAB"]);
    assert_eq!(part(&token, 0)["kid"], keys[0]["kid"]);
    let modulus = URL_SAFE_NO_PAD.decode(text(&keys[0]["n"])).unwrap();
    assert_eq!(modulus.len(), 2048 / 8);

    let row = rows(&server).await.remove(0);
    assert!(!contains(&row.private_key, &RSA_OID), "not in clear");
    assert!(!contains(&row.private_key, &modulus[..16]), "a private key has the modulus in it");
    let listed = server.get("/keys", &server.admin).await.expect(200).json();
    let names: BTreeSet<_> = listed["keys"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["created_at", "id", "signs", "verifies_until"]), "{listed}");
}

async fn a_new_key_signs_and_the_old_one_verifies_until_all_that_it_signed_has_ended(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let old = robot.token(&server).await;
    // Longer than anything that the server would sign.
    let mut claims = claims_of(&server, principal_of(&server, &robot).await);
    claims.exp += TimeDelta::days(30).num_seconds();
    let endless = sign(&server, &claims).await;
    let rotated = rotate(&server).await;
    let new = robot.token(&server).await;
    assert_eq!(kid(&new), rotated);
    assert_ne!(kid(&old), rotated);
    for token in [&old, &new, &endless] {
        server.get("/projects", token).await.expect(200);
    }
    assert_eq!(published(&server).await, BTreeSet::from([kid(&old), kid(&new)]));
    let listed = server.get("/keys", &server.admin).await.expect(200).json();
    let end = json!(server.clock.now() + OVERLAP);
    assert_eq!((&listed["keys"][0]["id"], &listed["keys"][0]["signs"]), (&json!(rotated), &json!(true)));
    assert_eq!(listed["keys"][0]["verifies_until"], Value::Null, "{listed}");
    assert_eq!((&listed["keys"][1]["id"], &listed["keys"][1]["signs"]), (&json!(kid(&old)), &json!(false)));
    assert_eq!(listed["keys"][1]["verifies_until"], end, "{listed}");

    server.clock.advance(OVERLAP - TimeDelta::seconds(1));
    server.get("/projects", &endless).await.expect(200);
    assert_eq!(published(&server).await.len(), 2);
    server.clock.advance(TimeDelta::seconds(1));
    server.get("/projects", &endless).await.refused(401, "unauthenticated");
    assert_eq!(published(&server).await, BTreeSet::from([rotated.clone()]));
    let later = robot.token(&server).await;
    assert_eq!(kid(&later), rotated);
    server.get("/projects", &later).await.expect(200);
}

async fn nobody_is_refused_while_keys_are_rotated(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "readonly").await;
    let ada = log_in(&server, "ada").await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let old = robot.token(&server).await;
    let requests = (0..100).map(|number| {
        let (server, robot, ada, old) = (&server, &robot, &ada, &old);
        async move {
            match number % 3 {
                0 => server.get("/projects", old).await,
                1 => ada.get(server, "/projects").await,
                _ => {
                    let new = robot.token(server).await;
                    server.get("/projects", &new).await
                }
            }
        }
    });
    let rotations = async {
        for _ in 0..3 {
            rotate(&server).await;
        }
    };
    let (answers, ()) = tokio::join!(join_all(requests), rotations);
    for answer in answers {
        answer.expect(200);
    }
    assert_eq!(published(&server).await.len(), 4);
}

/// Of many that need the first key at once, each gets a token that is good.
async fn the_first_key_is_made_once(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let tokens = join_all((0..10).map(|_| robot.token(&server))).await;
    for token in &tokens {
        server.get("/projects", token).await.expect(200);
    }
    assert_eq!(tokens.iter().map(|token| kid(token)).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(published(&server).await.len(), 1);
}

async fn ending_a_key_ends_what_it_signed_on_the_next_request(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let (ada, token) = (log_in(&server, "ada").await, robot.token(&server).await);
    // In every cache there is.
    for _ in 0..3 {
        ada.get(&server, "/users").await.expect(200);
        server.get("/projects", &token).await.expect(200);
    }
    let ended = kid(&token);
    let path = format!("/keys/{ended}");
    server.call(Method::DELETE, &path, &token, None).await.refused(403, "forbidden");
    done(server.call(Method::DELETE, &path, &server.admin, None).await);
    ada.is_over(&server, "its key was ended").await;
    server.get("/projects", &token).await.refused(401, "unauthenticated");
    server.get("/manifest/shop/web/v1", &token).await.refused(401, "unauthenticated");
    assert!(!published(&server).await.contains(&ended));
    server.call(Method::DELETE, &path, &server.admin, None).await.refused(404, "not_found");

    // Who logs in again gets what another key signed. What was ended stays ended.
    let (again, new) = (log_in(&server, "ada").await, robot.token(&server).await);
    assert_ne!(kid(&new), ended);
    again.get(&server, "/users").await.expect(200);
    server.get("/projects", &new).await.expect(200);
    ada.is_over(&server, "its key was ended").await;
}

/// Who can write to the database, and has not the secret key, puts a key of their own there.
async fn a_key_that_was_put_into_the_database_verifies_nothing(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let genuine = robot.token(&server).await;
    let ours = rows(&server).await.remove(0);
    // Another server makes the key, and signs with it what only this one may say.
    let attacker = TestServer::start(TestDatabase::sqlite().await).await;
    let forged = sign(&attacker, &claims_of(&server, principal_of(&server, &robot).await)).await;
    let theirs = rows(&attacker).await.remove(0);
    assert_eq!(kid(&forged), theirs.id);
    server.get("/users", &forged).await.refused(401, "unauthenticated");

    let garbage = vec![0; ours.private_key.len()];
    for private_key in [theirs.private_key.clone(), ours.private_key.clone(), garbage, vec![0]] {
        put(&server, &SigningKeyRow { private_key, ..theirs.clone() }).await;
        // Twice: what was refused is not remembered as right.
        for _ in 0..2 {
            let answer = server.get("/users", &forged).await;
            let status = answer.status;
            assert!(status == 401 || status.is_server_error(), "{status}: {}", answer.text());
            assert!(!answer.text().contains("items"), "{}", answer.text());
        }
        server.get("/users", &genuine).await.expect(200);
        server.execute(&format!("DELETE FROM signing_key WHERE id = '{}'", theirs.id)).await;
    }
    // And the server goes on with keys of its own.
    server.get("/users", &robot.token(&server).await).await.expect(200);
}

/// Puts a key into the database, as the one that signs.
async fn put(server: &TestServer, row: &SigningKeyRow) {
    let mut tx = server.resources().db.begin().await.unwrap();
    tx.insert_signing_key(row, server.clock.now() + TimeDelta::days(1)).await.unwrap();
    tx.commit().await.unwrap();
}

/// The keys in the database, the one that signs first.
async fn rows(server: &TestServer) -> Vec<SigningKeyRow> {
    let mut tx = server.resources().db.read().await.unwrap();
    tx.signing_keys(server.clock.now()).await.unwrap()
}

/// Makes a new key; its id.
async fn rotate(server: &TestServer) -> String {
    let made = done(server.call(Method::POST, "/keys/rotate", &server.admin, None).await).json();
    assert_eq!(made["signs"], true, "{made}");
    text(&made["id"])
}

/// The ids of the published keys.
async fn published(server: &TestServer) -> BTreeSet<String> {
    let published = server.get("/.well-known/jwks.json", "").await.expect(200).json();
    published["keys"].as_array().unwrap().iter().map(|key| text(&key["kid"])).collect()
}

/// The key that a token names.
fn kid(token: &str) -> String {
    text(&part(token, 0)["kid"])
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

on_both_databases! {
    public_keys_are_published_without_their_private_halves,
    a_new_key_signs_and_the_old_one_verifies_until_all_that_it_signed_has_ended,
    nobody_is_refused_while_keys_are_rotated,
    the_first_key_is_made_once,
    ending_a_key_ends_what_it_signed_on_the_next_request,
    a_key_that_was_put_into_the_database_verifies_nothing,
}
