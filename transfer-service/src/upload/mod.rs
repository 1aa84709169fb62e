//! Uploads. A push is `init` → manifest → missing chunks → `finish`; or `init` → files one by one → `finish`.
//!
//! | module | what |
//! |---|---|
//! | [`init`] | opens an upload |
//! | [`session`] | finding, listing and giving up uploads |
//! | [`manifest`] | takes the manifest, answers what is missing |
//! | [`chunks`] | takes chunks |
//! | [`file`] | takes one file |
//! | [`intake`] | verifies chunks and makes them durable |
//! | [`lookup`] | which of a manifest's chunks the app has |
//! | [`verify`] | before publishing: is everything there, and what it claims to be? |
//! | [`finish`] | publishes |

pub(crate) mod chunks;
pub(crate) mod file;
pub(crate) mod finish;
pub(crate) mod init;
mod intake;
mod lookup;
pub(crate) mod manifest;
mod record_stream;
pub(crate) mod session;
mod verify;
