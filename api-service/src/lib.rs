//! Identity and metadata: tokens, projects, apps, versions and channels.

mod access;
mod app;
mod channel;
mod diff;
mod project;
mod prune;
mod token;
mod version;

use axum::Router;
use kkartifact_service::{ApiResult, Resources, Routes, Service};

/// The service's routes.
pub fn router(resources: &Resources) -> ApiResult<Router> {
    Routes::new(Service::Api, resources)?
        .on("bootstrap", access::bootstrap)
        .on("whoami", access::whoami)
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
