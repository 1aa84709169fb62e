//! CI jobs that exchange their provider's token for one of ours.

use chrono::TimeDelta;
use kkartifact_model::api::oauth::{ACCESS_TOKEN, SUBJECT_TOKEN_TYPES, TOKEN_EXCHANGE};
use kkartifact_testkit::oidc::{OidcProvider, SigningKey};
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::oidc::{
    AUDIENCE, ask_for_token, exchange, job_claims, make_policy, oauth_refused, server_for, with, without,
};

/// What is wrong with a form, the error that answers it, and the form.
type Refused<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

async fn a_jobs_token_is_exchanged_for_what_the_policy_gives(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let job = provider.sign(&job_claims(&server, &provider));
    let answer = exchange(&server, &job).await.expect(200);
    assert!(answer.header("cache-control").contains("no-store"), "{:?}", answer.headers);
    let given = answer.json();
    assert_eq!(given["token_type"], "Bearer", "{given}");
    assert_eq!(given["issued_token_type"], ACCESS_TOKEN, "{given}");
    assert_eq!(given["expires_in"], 15 * 60, "{given}");
    assert!(given["scope"].as_str().unwrap().split(' ').any(|word| word == "push"), "{given}");

    let token = given["access_token"].as_str().unwrap();
    assert_eq!(server.get("/whoami", token).await.expect(200).json()["kind"], "workload");
    server.push_files("shop/web", "v2", token, &[("a", b"content")]).await.expect(201);
    server.get("/manifest/shop/web/v1", token).await.refused(403, "forbidden");
    let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
    server.post("/promote", token, promote).await.refused(403, "forbidden");
    server.get("/projects/other", token).await.refused(404, "not_found");
    let elsewhere = json!({ "project": "other", "app": "app", "version": "v1" });
    server.post("/upload/init", token, elsewhere).await.refused(404, "not_found");
    server.get("/trust-policies", token).await.refused(403, "forbidden");
    let minted = json!({ "name": "x", "permissions": ["push"], "scopes": [{ "project": "shop" }] });
    server.post("/tokens", token, minted).await.refused(403, "forbidden");

    // Only the exchange takes what the provider signed, and only what the provider signed.
    server.get("/whoami", &job).await.refused(401, "unauthenticated");
    oauth_refused(&exchange(&server, token).await, &["invalid_grant"], "our own token");
}

async fn an_exchanged_token_ends_after_the_minutes_of_its_policy(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let token = exchanged(&server, &provider.sign(&job_claims(&server, &provider))).await;
    server.get("/projects/shop", &token).await.expect(200);
    server.clock.advance(TimeDelta::minutes(15) - TimeDelta::seconds(1));
    server.get("/projects/shop", &token).await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    server.get("/projects/shop", &token).await.refused(401, "unauthenticated");
    server.get("/manifest/shop/web/v1", &token).await.refused(401, "unauthenticated");
}

async fn a_policy_takes_what_differs_in_nothing_that_matters(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let claims = job_claims(&server, &provider);
    let now = server.clock.now().timestamp();
    for (what, claims) in [
        ("several audiences", with(&claims, "aud", vec!["another", AUDIENCE])),
        ("a list with a claim that matches", with(&claims, "ref", vec!["refs/heads/main", "refs/tags/v1"])),
        ("a clock that is ahead", with(&claims, "nbf", now + 30)),
        ("no begin", without(&claims, "nbf")),
        ("another subject", with(&claims, "sub", "somebody")),
        ("claims that no policy names", with(&claims, "run_id", 7)),
    ] {
        let answer = exchange(&server, &provider.sign(&claims)).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
}

async fn every_other_token_is_refused(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    // An attacker's provider, whose keys are not to be asked for.
    let evil = OidcProvider::start().await;
    let claims = job_claims(&server, &provider);
    let refused = [wrong_claims(&server, &provider), wrong_signatures(&provider, &evil, &claims)].concat();
    for (what, token) in refused {
        let answer = exchange(&server, &token).await;
        oauth_refused(&answer, &["invalid_grant"], &what);
        assert!(!answer.text().contains(&token), "{what}: an answer repeats no token");
    }
    assert_eq!(evil.connections(), 0, "a token does not say where keys are");
    for garbage in ["x", "..", "a.b.c", "a.b", "e30.e30.", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"] {
        let answer = exchange(&server, garbage).await;
        oauth_refused(&answer, &["invalid_grant", "invalid_request"], garbage);
    }
    // What was wrong is what was meant to be.
    server.clock.advance(TimeDelta::minutes(5));
    exchanged(&server, &provider.sign(&job_claims(&server, &provider))).await;
}

fn wrong_claims(server: &TestServer, provider: &OidcProvider) -> Vec<(String, String)> {
    let claims = job_claims(server, provider);
    let now = server.clock.now().timestamp();
    let wrong = [
        ("another audience", with(&claims, "aud", "another")),
        ("the beginning of the audience", with(&claims, "aud", "kkart")),
        ("other audiences", with(&claims, "aud", vec!["another", "kkartifact2"])),
        ("no audiences", with(&claims, "aud", json!([]))),
        ("no audience", without(&claims, "aud")),
        ("another issuer", with(&claims, "iss", "https://id.example.com")),
        ("almost the issuer", with(&claims, "iss", format!("{}/", provider.issuer()))),
        ("a longer issuer", with(&claims, "iss", format!("{}.example.com", provider.issuer()))),
        ("no issuer", without(&claims, "iss")),
        ("expired", with(&claims, "exp", now - 61)),
        ("no end", without(&claims, "exp")),
        ("an end that is no time", with(&claims, "exp", "never")),
        ("not yet", with(&claims, "nbf", now + 120)),
        ("another repository", with(&claims, "repository", "acme/shop2")),
        ("a repository that ends right", with(&claims, "repository", "evil/acme/shop")),
        ("a repository in capitals", with(&claims, "repository", "ACME/shop")),
        ("a branch", with(&claims, "ref", "refs/heads/main")),
        ("no claim", without(&claims, "repository")),
        ("an empty claim", with(&claims, "repository", "")),
        ("a claim that is null", with(&claims, "repository", Value::Null)),
        ("a claim that is an object", with(&claims, "repository", json!({ "acme/shop": "acme/shop" }))),
        ("an empty list", with(&claims, "ref", json!([]))),
        ("a list without a match", with(&claims, "ref", vec!["refs/heads/main", "refs/heads/tags/v1"])),
    ];
    wrong.into_iter().map(|(what, claims)| (what.to_owned(), provider.sign(&claims))).collect()
}

fn wrong_signatures(provider: &OidcProvider, evil: &OidcProvider, claims: &Value) -> Vec<(String, String)> {
    let key = provider.key();
    let kid = key.kid();
    let header = |algorithm: &str| json!({ "alg": algorithm, "typ": "JWT", "kid": kid });
    let elsewhere = |name: &str, place: Value| {
        let header = with(&json!({ "alg": "RS256", "typ": "JWT", "kid": evil.key().kid() }), name, place);
        evil.key().sign_with_header(&header, claims)
    };
    let good = key.sign(claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other_claims = key.sign(&with(claims, "sub", "another"));
    let other_payload = other_claims.rsplit_once('.').unwrap().0;
    let mut tokens = vec![
        ("alg none", key.unsigned(claims)),
        ("alg none with a signature", key.sign_with_header(&header("none"), claims)),
        ("alg None with a signature", key.sign_with_header(&header("None"), claims)),
        ("another algorithm's name", key.sign_with_header(&header("RS512"), claims)),
        ("an unknown algorithm", key.sign_with_header(&header("XX256"), claims)),
        ("unknown key", key.clone().named("unknown").sign(claims)),
        ("another key of this name", SigningKey::generate().named(kid).sign(claims)),
        ("another provider's key", evil.sign(claims)),
        ("a key that the token says", elsewhere("jku", json!(format!("{}/jwks", evil.issuer())))),
        ("no signature", format!("{signed}.")),
        ("another token's signature", format!("{other_payload}.{signature}")),
        ("something behind it", format!("{good}.x")),
    ];
    let confused = key.confused(claims);
    tokens.extend(confused.into_iter().map(|token| ("key confusion", token)));
    tokens.into_iter().map(|(what, token)| (what.to_owned(), token)).collect()
}

async fn what_is_malformed_is_answered_as_the_standard_says(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let job = provider.sign(&job_claims(&server, &provider));
    let kind = ("subject_token_type", SUBJECT_TOKEN_TYPES[0]);
    let grant = ("grant_type", TOKEN_EXCHANGE);
    let subject = ("subject_token", job.as_str());
    let forms: [Refused; 8] = [
        ("no grant type", "invalid_request", &[kind, subject]),
        ("unknown grant type", "unsupported_grant_type", &[("grant_type", "password"), kind, subject]),
        ("no subject token", "invalid_request", &[grant, kind]),
        ("an empty subject token", "invalid_request", &[grant, kind, ("subject_token", "")]),
        ("no token type", "invalid_request", &[grant, subject]),
        ("another token type", "invalid_request", &[grant, subject, ("subject_token_type", ACCESS_TOKEN)]),
        ("a parameter twice", "invalid_request", &[grant, kind, subject, subject]),
        ("nothing", "invalid_request", &[]),
    ];
    for (what, error, form) in forms {
        oauth_refused(&ask_for_token(&server, form).await, &[error], what);
    }
    let as_json = json!({ "grant_type": grant.1, "subject_token_type": kind.1, "subject_token": job });
    let answer = server.post("/oauth/token", "", as_json).await;
    oauth_refused(&answer, &["invalid_request"], "JSON");
    for kind in SUBJECT_TOKEN_TYPES {
        let form = [grant, ("subject_token_type", kind), subject];
        ask_for_token(&server, &form).await.expect(200);
    }
}

async fn a_disabled_policy_lets_nobody_in_and_everybody_out(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let job = provider.sign(&job_claims(&server, &provider));
    let token = exchanged(&server, &job).await;
    // In every cache there is.
    for _ in 0..3 {
        server.get("/projects/shop", &token).await.expect(200);
    }
    disable(&server, "ci", true).await;
    server.get("/projects/shop", &token).await.refused(401, "unauthenticated");
    server.get("/manifest/shop/web/v1", &token).await.refused(401, "unauthenticated");
    oauth_refused(&exchange(&server, &job).await, &["invalid_grant"], "disabled");
    disable(&server, "ci", false).await;
    let again = exchanged(&server, &job).await;
    server.get("/projects/shop", &again).await.expect(200);
    // What has ended once stays ended.
    server.get("/projects/shop", &token).await.refused(401, "unauthenticated");
}

async fn of_several_policies_one_is_named(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let wider = json!({
        "name": "wider",
        "issuer": provider.issuer(),
        "audience": AUDIENCE,
        "claims": { "repository": "acme/*" },
        "permissions": ["promote"],
        "scopes": [{ "project": "shop", "app": "web" }],
    });
    server.post("/trust-policies", &server.admin, wider).await.expect(201);
    let claims = job_claims(&server, &provider);
    let job = provider.sign(&claims);
    let answer = exchange(&server, &job).await;
    oauth_refused(&answer, &["invalid_grant", "invalid_request"], "two match");
    let answer = ask_for_token(&server, &naming("unknown", &job)).await;
    oauth_refused(&answer, &["invalid_grant", "invalid_request"], "there is no such policy");

    let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
    for (policy, status) in [("ci", 403), ("wider", 200)] {
        let token = ask_for_token(&server, &naming(policy, &job)).await.expect(200).json();
        let token = token["access_token"].as_str().unwrap();
        server.post("/promote", token, promote.clone()).await.expect(status);
    }
    // To name a policy is not to match it.
    let branch = provider.sign(&with(&claims, "ref", "refs/heads/main"));
    let answer = ask_for_token(&server, &naming("ci", &branch)).await;
    oauth_refused(&answer, &["invalid_grant"], "another policy's job");
    exchanged(&server, &branch).await;
    // Nor does the one that is disabled count.
    disable(&server, "wider", true).await;
    exchanged(&server, &job).await;
}

async fn a_policy_names_at_least_one_claim_and_one_scope(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let policy = json!({
        "name": "new",
        "issuer": provider.issuer(),
        "audience": AUDIENCE,
        "claims": { "repository": "acme/shop" },
        "permissions": ["push"],
        "scopes": [{ "project": "shop" }],
    });
    for bad in [
        with(&policy, "claims", json!({})),
        without(&policy, "claims"),
        with(&policy, "claims", json!({ "sub": "*" })),
        with(&policy, "scopes", json!([])),
        with(&policy, "permissions", json!([])),
        with(&policy, "audience", ""),
        with(&policy, "issuer", "no address"),
        with(&policy, "issuer", "file:///etc/passwd"),
        with(&policy, "name", "Not A Name"),
        with(&policy, "max_minutes", 0),
        with(&policy, "anything", "else"),
    ] {
        let answer = server.post("/trust-policies", &server.admin, bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    server.post("/trust-policies", &server.admin, policy.clone()).await.expect(201);
    server.post("/trust-policies", &server.admin, policy).await.refused(409, "already_exists");
}

async fn a_new_key_is_fetched_and_a_thousand_unknown_ones_are_not(db: TestDatabase) {
    let (provider, server) = shop(db).await;
    let claims = job_claims(&server, &provider);
    let old = provider.key();
    exchanged(&server, &old.sign(&claims)).await;
    assert_eq!(provider.jwks_requests(), 1);
    for number in 0..1000 {
        let token = old.clone().named(&format!("unknown-{number}")).sign(&claims);
        oauth_refused(&exchange(&server, &token).await, &["invalid_grant"], "unknown key");
    }
    assert!(provider.jwks_requests() <= 3, "{} requests", provider.jwks_requests());
    // The flood does not stand in the way of who is known.
    exchanged(&server, &old.sign(&claims)).await;

    provider.rotate_key();
    server.clock.advance(TimeDelta::minutes(5));
    let claims = job_claims(&server, &provider);
    exchanged(&server, &provider.sign(&claims)).await;
    let answer = exchange(&server, &old.sign(&claims)).await;
    oauth_refused(&answer, &["invalid_grant"], "a key that the provider has withdrawn");
}

/// A server with a version of shop/web, and the policy `ci` for the jobs of a provider.
async fn shop(db: TestDatabase) -> (OidcProvider, TestServer) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"content")]).await.expect(201);
    make_policy(&server, &provider, "ci").await;
    (provider, server)
}

/// What a job's token is exchanged for.
async fn exchanged(server: &TestServer, token: &str) -> String {
    let given = exchange(server, token).await.expect(200).json();
    given["access_token"].as_str().unwrap().to_owned()
}

async fn disable(server: &TestServer, policy: &str, disabled: bool) {
    let path = format!("/trust-policies/{policy}");
    let change = Some(json!({ "disabled": disabled }));
    server.call(Method::PATCH, &path, &server.admin, change).await.expect(200);
}

fn naming<'a>(policy: &'a str, token: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token_type", SUBJECT_TOKEN_TYPES[0]),
        ("subject_token", token),
        ("policy", policy),
    ]
}

on_both_databases! {
    a_jobs_token_is_exchanged_for_what_the_policy_gives,
    an_exchanged_token_ends_after_the_minutes_of_its_policy,
    a_policy_takes_what_differs_in_nothing_that_matters,
    every_other_token_is_refused,
    what_is_malformed_is_answered_as_the_standard_says,
    a_disabled_policy_lets_nobody_in_and_everybody_out,
    of_several_policies_one_is_named,
    a_policy_names_at_least_one_claim_and_one_scope,
    a_new_key_is_fetched_and_a_thousand_unknown_ones_are_not,
}
