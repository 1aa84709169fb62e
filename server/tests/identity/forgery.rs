//! Signed tokens that say what they should not, or were signed by somebody else: whatever is wrong with one, nobody
//! gets in, and nobody learns what it was.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use kkartifact_service::auth::keys::Claims;
use kkartifact_testkit::oidc::SigningKey;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::someone::{Robot, Session, id_of, log_in, make_person, said, text};

/// Claims that a genuine token has, of which one is wrong. The number is the time.
type Wrong = fn(&mut Claims, i64);

async fn what_was_rightly_signed_is_refused_for_what_it_says(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let principal = principal_of(&server, &robot).await;
    let wrong: [(&str, Wrong); 16] = [
        ("over now", |claims, now| claims.exp = now),
        ("over long ago", |claims, now| claims.exp = now - 3600),
        ("over before it began", |claims, _| claims.exp = 0),
        ("over before time began", |claims, _| claims.exp = i64::MIN),
        ("not yet", |claims, now| claims.nbf = now + 60),
        ("never", |claims, _| claims.nbf = i64::MAX),
        ("for somebody else", |claims, _| claims.aud = "another".into()),
        ("for nobody", |claims, _| claims.aud.clear()),
        ("for somebody of almost this name", |claims, _| claims.aud.push('2')),
        ("by somebody else", |claims, _| claims.iss = "https://id.example.com".into()),
        ("by nobody", |claims, _| claims.iss.clear()),
        ("by somebody of almost this name", |claims, _| claims.iss.push('/')),
        ("of an older secret", |claims, _| claims.generation -= 1),
        ("of a secret to come", |claims, _| claims.generation += 1),
        ("of somebody who is not there", |claims, _| claims.principal = i64::MAX),
        ("with a session that is not there", |claims, _| claims.sid = Some(Uuid::nil())),
    ];
    let honest = claims_of(&server, principal);
    let genuine = sign(&server, &honest).await;
    server.get("/users", &genuine).await.expect(200);
    for (what, spoil) in wrong {
        let mut claims = honest.clone();
        spoil(&mut claims, server.clock.now().timestamp());
        refused(&server, &sign(&server, &claims).await, what).await;
    }
    // Clocks differ a little.
    let mut ahead = honest.clone();
    ahead.nbf += 3;
    server.get("/users", &sign(&server, &ahead).await).await.expect(200);
}

async fn a_signed_name_is_worth_what_its_row_says(db: TestDatabase) {
    let server = TestServer::start(db).await;
    for login in ["ada", "eve"] {
        make_person(&server, login, "admin").await;
    }
    let ada = log_in(&server, "ada").await;
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let robots = principal_of(&server, &robot).await;
    let (adas, eves) = (principal_of_user(&server, "ada").await, principal_of_user(&server, "eve").await);
    let tokens = principal_of_token(&server).await;
    let session = Some(ada.id.parse::<Uuid>().unwrap());
    for (what, principal, sid) in [
        ("a person without a session", adas, None),
        ("an API token's principal", tokens, None),
        ("another person's session", eves, session),
        ("a person's session of a program", robots, session),
        ("a person's session of an API token", tokens, session),
    ] {
        let claims = Claims { sid, ..claims_of(&server, principal) };
        refused(&server, &sign(&server, &claims).await, what).await;
    }
    let claims = Claims { sid: session, ..claims_of(&server, adas) };
    server.get("/users", &sign(&server, &claims).await).await.expect(200);
}

async fn what_was_changed_or_signed_by_others_is_refused(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let genuine = robot.token(&server).await;
    let changed = [changed_headers(&genuine), changed_claims(&genuine), changed_text(&genuine)].concat();
    let forged = [signed_by_others(&genuine), confused(&server, &genuine).await].concat();
    assert!(changed.len() + forged.len() > 50);
    for (what, token) in changed.into_iter().chain(forged) {
        assert_ne!(token, genuine, "{what}");
        refused(&server, &token, &what).await;
    }
    server.get("/users", &genuine).await.expect(200);
}

/// The same header but for one part, with the signature that was right before, and without any.
fn changed_headers(genuine: &str) -> Vec<(String, String)> {
    let algorithms =
        ["none", "None", "NONE", "nOnE", "", "HS256", "RS384", "RS512", "PS256", "ES256", "EdDSA"];
    let keys = ["", "unknown", "../../../../dev/null", "' OR '1'='1", "%", "a\0b", &"k".repeat(5000)];
    let algorithms = algorithms.map(|algorithm| ("alg", json!(algorithm)));
    let keys = keys.map(|key| ("kid", json!(key)));
    let mut headers: Vec<_> = algorithms.into_iter().chain(keys).collect();
    headers.extend([
        ("alg", Value::Null),
        ("alg", json!(["RS256"])),
        ("kid", Value::Null),
        ("kid", json!(1)),
    ]);
    let mut tokens = Vec::new();
    for (name, value) in headers {
        let token = with_part(genuine, 0, name, &value);
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        tokens.push((format!("{name} is {value}"), token));
        tokens.push((format!("{name} is {value}, unsigned"), unsigned));
    }
    tokens
}

fn changed_claims(genuine: &str) -> Vec<(String, String)> {
    let claims = [
        ("kka_principal", json!(1)),
        ("kka_generation", json!(2)),
        ("exp", json!(4_000_000_000_i64)),
        ("sub", json!("admin")),
        ("scope", json!("admin")),
        ("sid", json!(Uuid::nil())),
        ("admin", json!(true)),
    ];
    let tokens = claims.into_iter().map(|(name, value)| (name, with_claim(genuine, name, &value)));
    tokens.map(|(name, token)| (format!("another {name}"), token)).collect()
}

fn changed_text(genuine: &str) -> Vec<(String, String)> {
    let (signed, signature) = genuine.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let texts = [
        ("no signature", format!("{signed}.")),
        ("no signature and no point", signed.to_owned()),
        ("half of the signature", format!("{signed}.{}", &signature[..signature.len() / 2])),
        ("another signature", format!("{signed}.{other}{}", &signature[1..])),
        ("the signature twice", format!("{signed}.{signature}{signature}")),
        ("something behind it", format!("{genuine}.x")),
        ("a point behind it", format!("{genuine}.")),
        ("padding", format!("{genuine}==")),
        ("parts in another order", format!("{payload}.{header}.{signature}")),
        ("no header", format!(".{payload}.{signature}")),
        ("no payload", format!("{header}..{signature}")),
        ("nothing", "..".to_owned()),
        ("empty objects", "e30.e30.e30".to_owned()),
        ("twice", format!("{genuine}{genuine}")),
        ("no Base64", genuine.replace('.', "!.")),
    ];
    texts.into_iter().map(|(what, text)| (what.to_owned(), text)).collect()
}

/// Signatures that are right under a key that is not ours, or that the token brings along.
fn signed_by_others(genuine: &str) -> Vec<(String, String)> {
    let (header, claims) = (part(genuine, 0), part(genuine, 1));
    let key = SigningKey::generate().named(header["kid"].as_str().unwrap());
    let stranger = SigningKey::generate();
    let bringing = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        key.sign_with_header(&header, &claims)
    };
    let address = "http://127.0.0.1:1/jwks.json";
    let jwk = json!({ "kty": "RSA", "alg": "RS256", "n": "AQAB", "e": "AQAB" });
    let tokens = [
        ("another key of this name", key.sign(&claims)),
        ("another key of its own name", stranger.sign(&claims)),
        ("a key in the header", bringing("jwk", jwk)),
        ("an address of keys", bringing("jku", json!(address))),
        ("an address of a certificate", bringing("x5u", json!(address))),
        ("a certificate", bringing("x5c", json!(["AAAA"]))),
        ("something that must be understood", bringing("crit", json!(["exp"]))),
        ("no algorithm, by this key", key.unsigned(&claims)),
    ];
    let confused = key.confused(&claims).into_iter().map(|token| ("another key as a secret", token));
    tokens.into_iter().chain(confused).map(|(what, token)| (what.to_owned(), token)).collect()
}

/// Key confusion: an HMAC whose secret is our public key, which everybody knows, in every form that it may be held
/// in.
async fn confused(server: &TestServer, genuine: &str) -> Vec<(String, String)> {
    let now = server.clock.now();
    let row = server.resources().db.read().await.unwrap().signing_keys(now).await.unwrap().remove(0);
    let jwks = server.get("/.well-known/jwks.json", "").await.expect(200);
    let n = text(&jwks.json()["keys"][0]["n"]);
    // A PKCS #1 key in an X.509 one: rsaEncryption without parameters, and a string of bits.
    let algorithm: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let bits = der(3, &[&[0_u8][..], &row.public_key[..]].concat());
    let spki = der(0x30, &[&algorithm[..], &bits[..]].concat());
    let secrets = [
        ("PKCS #1", row.public_key.clone()),
        ("PKCS #1 as PEM", pem("RSA PUBLIC KEY", &row.public_key)),
        ("X.509", spki.clone()),
        ("X.509 as PEM", pem("PUBLIC KEY", &spki)),
        ("X.509 as PEM without its last line's end", pem("PUBLIC KEY", &spki).trim_ascii_end().to_vec()),
        ("the modulus", URL_SAFE_NO_PAD.decode(&n).unwrap()),
        ("the modulus as text", n.into_bytes()),
        ("the published document", jwks.body.clone()),
        ("the key's id", row.id.clone().into_bytes()),
        ("nothing", Vec::new()),
    ];
    let header = with_part(genuine, 0, "alg", &json!("HS256"));
    let message = header.rsplit_once('.').unwrap().0;
    let tokens = secrets.map(|(what, secret)| {
        let tag = URL_SAFE_NO_PAD.encode(hmac(&secret, message.as_bytes()));
        (format!("a MAC under the public key: {what}"), format!("{message}.{tag}"))
    });
    tokens.into()
}

/// What is signed for programs is not for browsers, and what is not for this place opens nothing.
async fn no_other_credential_is_a_session_or_a_signed_token(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let program = robot.token(&server).await;
    let job = sign(&server, &claims_of(&server, principal_of_policy(&server).await)).await;
    for (kind, token) in [("service_account", &program), ("workload", &job)] {
        let me = server.get("/whoami", token).await.expect(200).json();
        assert_eq!(me["kind"], kind, "{me}");
        let cookie = Session { cookie: format!("kka_session={token}"), ..ada.clone() };
        let answer = cookie.get(&server, "/whoami").await;
        assert_eq!(said(&answer), said(&server.get("/whoami", "x").await), "{kind}");
        let answer = cookie.call(&server, Method::POST, "/projects", Some(json!({ "name": "x" }))).await;
        answer.refused(401, "unauthenticated");
    }
    let another = TestServer::start(TestDatabase::sqlite().await).await;
    let foreign = sign(&another, &claims_of(&another, principal_of(&server, &robot).await)).await;
    for (what, token) in [
        ("a csrf token", ada.csrf.as_str()),
        ("a session's id", &ada.id),
        ("a client's secret", &robot.secret),
        ("a client's id", &robot.id),
        ("a token's id", id_of(&server.admin)),
        ("a signed token of another server", &foreign),
        ("an API token of another server", &another.admin),
    ] {
        refused(&server, token, what).await;
    }
}

/// Asserts that a token is refused, as a header and as a cookie, like any garbage.
async fn refused(server: &TestServer, token: &str, what: &str) {
    let garbage = said(&server.get("/users", "garbage").await);
    assert_eq!(garbage.0, 401);
    let answer = server.get("/users", token).await;
    assert_eq!(said(&answer), garbage, "{what}");
    let cookie = server.request(Method::GET, "/users", "").header("cookie", format!("kka_session={token}"));
    assert_eq!(said(&server.send(cookie).await), garbage, "{what}, as a cookie");
}

/// What the server would sign for a principal: an hour from now.
pub(crate) fn claims_of(server: &TestServer, principal: (i64, i64)) -> Claims {
    let now = server.clock.now();
    server.resources().auth.keys().claims(principal, "somebody", now, now + TimeDelta::hours(1))
}

/// Signs with the server's own key.
pub(crate) async fn sign(server: &TestServer, claims: &Claims) -> String {
    let resources = server.resources();
    resources.auth.keys().sign(&resources.db, claims, server.clock.now()).await.unwrap()
}

/// A service account's row and generation.
pub(crate) async fn principal_of(server: &TestServer, robot: &Robot) -> (i64, i64) {
    let mut tx = server.resources().db.read().await.unwrap();
    let row = tx.find_service_account(&robot.id).await.unwrap().unwrap();
    (row.principal_id.0, row.generation)
}

async fn principal_of_user(server: &TestServer, login: &str) -> (i64, i64) {
    let mut tx = server.resources().db.read().await.unwrap();
    let row = tx.find_user(login).await.unwrap().unwrap();
    (row.principal_id.0, row.generation)
}

/// The first admin's token.
async fn principal_of_token(server: &TestServer) -> (i64, i64) {
    let mut tx = server.resources().db.read().await.unwrap();
    let row = tx.find_token(&id_of(&server.admin).parse().unwrap()).await.unwrap().unwrap();
    (row.principal_id.0, 1)
}

/// A new trust policy.
async fn principal_of_policy(server: &TestServer) -> (i64, i64) {
    let policy = json!({
        "name": "ci", "issuer": "https://ci.example.com", "audience": "kkartifact",
        "claims": { "repository": "acme/shop" }, "permissions": ["admin"], "scopes": [{}],
    });
    server.post("/trust-policies", &server.admin, policy).await.expect(201);
    let mut tx = server.resources().db.read().await.unwrap();
    let row = tx.find_trust_policy("ci").await.unwrap().unwrap();
    (row.principal_id.0, row.generation)
}

/// A token whose claim is changed, under the signature that it had.
pub(crate) fn with_claim(token: &str, name: &str, value: &Value) -> String {
    with_part(token, 1, name, value)
}

/// What a part of a token says.
pub(crate) fn part(token: &str, at: usize) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn with_part(token: &str, at: usize, name: &str, value: &Value) -> String {
    let mut changed = part(token, at);
    changed[name] = value.clone();
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts[at] = URL_SAFE_NO_PAD.encode(changed.to_string());
    parts.join(".")
}

/// DER: a tag, a length, and what is in it.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    assert!(length > 255, "shorter ones are written otherwise");
    [&[tag, 0x82][..], &length.to_be_bytes()[..], content].concat()
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
}

/// HMAC-SHA256 by RFC 2104. Libraries for tokens refuse to do this with a public key.
fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    let hashed = Sha256::digest(secret);
    let key = if secret.len() > block.len() { &hashed[..] } else { secret };
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

#[test]
fn the_attackers_mac_is_a_real_one() {
    // RFC 4231, test case 2.
    let tag = hmac(b"Jefe", b"what do ya want for nothing?");
    assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    assert_eq!(tag[28..], [0x64, 0xec, 0x38, 0x43]);
}

on_both_databases! {
    what_was_rightly_signed_is_refused_for_what_it_says,
    a_signed_name_is_worth_what_its_row_says,
    what_was_changed_or_signed_by_others_is_refused,
    no_other_credential_is_a_session_or_a_signed_token,
}
