//! Bytes in and out: uploads from init to finish, files, manifests, chunks and whole versions.

mod download;
mod upload;

use axum::Router;
use kkartifact_service::{ApiResult, Resources, Routes, Service};

/// The service's routes.
pub fn router(resources: &Resources) -> ApiResult<Router> {
    Routes::new(Service::Transfer, resources)?
        .on("upload.init", upload::init::init)
        .on("upload.manifest", upload::manifest::put)
        .on("upload.missing", upload::manifest::missing)
        .on("upload.chunks", upload::chunks::post)
        .on("upload.finish", upload::finish::finish)
        .on("upload.list", upload::session::list)
        .on("upload.get", upload::session::get)
        .on("upload.abort", upload::session::abort)
        .on("file.put", upload::file::put)
        .on("file.get", download::file::get)
        .on("manifest.get", download::manifest::get)
        .on("chunks.get", download::chunks::post)
        .on("archive.get", download::archive::get)
        .finish()
}
