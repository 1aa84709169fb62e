//! Downloads: a file with ranges, a manifest or its delta, many chunks in one stream, a whole version.

pub(crate) mod archive;
pub(crate) mod chunks;
pub(crate) mod file;
pub(crate) mod manifest;
mod range;
