//! Identity and metadata: credentials, people, keys, projects, apps, versions, channels, events and the audit log.

mod access;
mod app;
mod audit;
mod channel;
mod diff;
mod event;
mod exchange;
mod key;
mod login;
mod oauth;
mod oidc;
mod project;
mod prune;
mod role_binding;
mod scope;
mod service_account;
mod session;
mod token;
mod trust_policy;
mod user;
mod version;

use axum::Router;
use kkartifact_service::{ApiResult, Resources, Routes, Service};

/// The service's routes.
pub fn router(resources: &Resources) -> ApiResult<Router> {
    Routes::new(Service::Api, resources)?
        .on("bootstrap", access::bootstrap)
        .on("whoami", access::whoami)
        .on("login", login::login)
        .on("logout", login::logout)
        .on("password.change", login::change_password)
        .on("oidc.login", oidc::login)
        .on("oidc.callback", oidc::callback)
        .on("oauth.token", oauth::token)
        .on("jwks", key::jwks)
        .on("key.list", key::list)
        .on("key.rotate", key::rotate)
        .on("key.revoke", key::revoke)
        .on("session.list", session::list)
        .on("session.revoke", session::revoke)
        .on("user.list", user::list)
        .on("user.create", user::create)
        .on("user.get", user::get)
        .on("user.update", user::update)
        .on("user.reset_password", user::reset_password)
        .on("user.unlock", user::unlock)
        .on("service_account.list", service_account::list)
        .on("service_account.create", service_account::create)
        .on("service_account.get", service_account::get)
        .on("service_account.update", service_account::update)
        .on("service_account.rotate", service_account::rotate)
        .on("trust_policy.list", trust_policy::list)
        .on("trust_policy.create", trust_policy::create)
        .on("trust_policy.get", trust_policy::get)
        .on("trust_policy.update", trust_policy::update)
        .on("role_binding.list", role_binding::list)
        .on("role_binding.create", role_binding::create)
        .on("role_binding.delete", role_binding::delete)
        .on("audit.list", audit::list)
        .on("audit.export", audit::export)
        .on("audit.project", audit::of_project)
        .on("event.stream", event::stream)
        .on("token.create", token::create)
        .on("token.list", token::list)
        .on("token.revoke", token::revoke)
        .on("project.list", project::list)
        .on("project.create", project::create)
        .on("project.get", project::get)
        .on("project.update", project::update)
        .on("project.delete", project::delete)
        .on("app.list", app::list)
        .on("app.create", app::create)
        .on("app.get", app::get)
        .on("app.update", app::update)
        .on("app.delete", app::delete)
        .on("version.list", version::list)
        .on("version.get", version::get)
        .on("version.delete", version::delete)
        .on("version.restore", version::restore)
        .on("version.pulled", version::pulled)
        .on("version.diff", diff::get)
        .on("version.prune", prune::prune)
        .on("channel.promote", channel::promote)
        .on("channel.rollback", channel::rollback)
        .on("channel.list", channel::list)
        .on("channel.history", channel::history)
        .finish()
}
