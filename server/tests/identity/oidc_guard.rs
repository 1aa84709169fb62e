//! Where the server goes for a provider's keys, and where it does not.

use std::time::Duration;

use kkartifact_testkit::oidc::{Faults, OidcProvider};
use kkartifact_testkit::{Answer, TestDatabase, on_both_databases};

use crate::oidc::{exchange, job_claims, make_policy, oauth_refused, server_for};

async fn an_issuer_inside_is_not_called_unless_it_is_allowed(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let mut server = server_for(db, &provider, |_| {}).await;
    server.make_app("shop", "web").await;
    make_policy(&server, &provider, "ci").await;
    let token = provider.sign(&job_claims(&server, &provider));
    exchange(&server, &token).await.expect(200);
    let others: [&[&str]; 4] = [&[], &["127.0.0.2"], &["10.0.0.0/8", "localhost"], &["id.example.com"]];
    for allowed in others {
        let allow = allowed.iter().map(|&place| place.to_owned()).collect();
        server.restart_with(|config| config.outbound.allow = allow).await;
        let before = (provider.connections(), provider.jwks_requests());
        refused_for_its_keys(&exchange(&server, &token).await, &format!("{allowed:?}"));
        assert_eq!((provider.connections(), provider.jwks_requests()), before, "{allowed:?}");
    }
    server.restart_with(|config| config.outbound.allow = vec!["127.0.0.0/8".into()]).await;
    exchange(&server, &token).await.expect(200);
}

/// The provider is allowed by its name, and its neighbours on the same machine are not.
async fn keys_are_fetched_only_from_where_it_is_allowed(db: TestDatabase) {
    let honest = OidcProvider::start_as("localhost").await;
    let server = server_for(db, &honest, |config| config.outbound.allow = vec!["localhost".into()]).await;
    server.make_app("shop", "web").await;
    make_policy(&server, &honest, "honest").await;
    exchange(&server, &honest.sign(&job_claims(&server, &honest))).await.expect(200);

    // It has the keys that the tokens are signed with: whoever asks it, lets them in.
    let inside = OidcProvider::start().await;
    let port = inside.issuer().rsplit_once(':').unwrap().1;
    for (number, target) in [
        "http://127.0.0.1:PORT/jwks",
        "http://[::ffff:127.0.0.1]:PORT/jwks",
        "http://[::ffff:7f00:1]:PORT/jwks",
        "http://2130706433:PORT/jwks",
        "http://0x7f.1:PORT/jwks",
        "http://0177.0.0.1:PORT/jwks",
        "http://0.0.0.0:PORT/jwks",
        "http://[::]:PORT/jwks",
        "http://localhost@127.0.0.1:PORT/jwks",
        "http://localhost.:PORT/jwks",
        "http://169.254.169.254/jwks",
        "http://[fd00:ec2::254]/jwks",
        "file:///proc/self/environ",
    ]
    .into_iter()
    .enumerate()
    {
        let target = target.replace("PORT", port);
        let provider = OidcProvider::start_as("localhost").await;
        make_policy(&server, &provider, &format!("policy-{number}")).await;
        provider.misbehave(|faults| faults.jwks_uri = Some(target.clone()));
        let token = inside.sign(&job_claims(&server, &provider));
        refused_for_its_keys(&exchange(&server, &token).await, &target);
        assert_eq!(inside.connections(), 0, "{target}");
    }
}

async fn redirects_are_not_followed(db: TestDatabase) {
    let elsewhere = OidcProvider::start().await;
    let server = server_for(db, &elsewhere, |_| {}).await;
    server.make_app("shop", "web").await;
    let discovery = format!("{}/.well-known/openid-configuration", elsewhere.issuer());
    let jwks = format!("{}/jwks", elsewhere.issuer());
    for (what, faults) in [
        ("discovery", Faults { discovery_redirect: Some(discovery), ..Faults::default() }),
        ("keys", Faults { jwks_redirect: Some(jwks), ..Faults::default() }),
    ] {
        let provider = OidcProvider::start().await;
        provider.misbehave(|now| *now = faults);
        make_policy(&server, &provider, what).await;
        let token = elsewhere.sign(&job_claims(&server, &provider));
        refused_for_its_keys(&exchange(&server, &token).await, what);
        assert_eq!(elsewhere.connections(), 0, "{what}");
    }
}

async fn a_provider_that_answers_wrongly_lets_nobody_in(db: TestDatabase) {
    let honest = OidcProvider::start().await;
    let server = server_for(db, &honest, |_| {}).await;
    server.make_app("shop", "web").await;
    for (name, faults) in [
        ("none", Faults::default()),
        ("another-issuer", Faults { issuer: Some(honest.issuer().to_owned()), ..Faults::default() }),
        ("huge-answer", Faults { jwks_padding: 32 << 20, ..Faults::default() }),
    ] {
        let provider = OidcProvider::start().await;
        provider.misbehave(|now| *now = faults);
        make_policy(&server, &provider, name).await;
        let answer = exchange(&server, &provider.sign(&job_claims(&server, &provider))).await;
        if name == "none" {
            answer.expect(200);
        } else {
            refused_for_its_keys(&answer, name);
        }
    }
}

async fn a_provider_that_hangs_holds_nobody_up(db: TestDatabase) {
    let (hanging, honest) = (OidcProvider::start().await, OidcProvider::start().await);
    let server = server_for(db, &honest, |_| {}).await;
    server.make_app("shop", "web").await;
    make_policy(&server, &hanging, "hanging").await;
    make_policy(&server, &honest, "honest").await;
    hanging.misbehave(|faults| faults.jwks_hangs = true);
    let stuck = hanging.sign(&job_claims(&server, &hanging));
    let token = honest.sign(&job_claims(&server, &honest));
    let others = async {
        exchange(&server, &token).await.expect(200);
        server.get("/whoami", &server.admin).await.expect(200);
    };
    // The route itself would give up after 30 seconds, and with less to say.
    let answers = async { tokio::join!(exchange(&server, &stuck), others) };
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(25), answers).await.unwrap();
    refused_for_its_keys(&answer, "it hangs");
}

/// Asserts a refusal for want of keys: for good, or only for now.
#[track_caller]
fn refused_for_its_keys(answer: &Answer, why: &str) {
    if answer.status == 503 {
        let body = answer.json();
        assert_eq!(body["error"], "temporarily_unavailable", "{why}: {body}");
        return;
    }
    oauth_refused(answer, &["invalid_grant", "temporarily_unavailable"], why);
}

on_both_databases! {
    an_issuer_inside_is_not_called_unless_it_is_allowed,
    keys_are_fetched_only_from_where_it_is_allowed,
    redirects_are_not_followed,
    a_provider_that_answers_wrongly_lets_nobody_in,
    a_provider_that_hangs_holds_nobody_up,
}
