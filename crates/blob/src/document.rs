//! The documents that describe versions, the markers that say whether a version is there, and the head of the audit
//! log's chain.

use bytes::Bytes;
use kkartifact_model::ChunkId;
use kkartifact_model::meta::{VersionMarker, VersionMeta};

use crate::error::BlobError;
use crate::store::{Backend, BlobStore, blocking};

impl BlobStore {
    /// Stores a version's document under its digest, durably. Doing it twice changes nothing.
    pub async fn put_meta(&self, meta: &VersionMeta) -> Result<ChunkId, BlobError> {
        let text = yaml(meta)?;
        let digest = ChunkId::of(text.as_bytes());
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("writing meta.yaml", move || directory.put_meta(&digest, text.as_bytes())).await?;
            }
        }
        Ok(digest)
    }

    /// A version's document, verified against its digest.
    pub async fn get_meta(&self, digest: ChunkId) -> Result<VersionMeta, BlobError> {
        let bytes: Bytes = match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("reading meta.yaml", move || directory.get_meta(&digest)).await?
            }
        };
        let damaged = |why| BlobError::Damaged(format!("meta.yaml {digest}"), why);
        if ChunkId::of(&bytes) != digest {
            return Err(damaged("its bytes don't match its digest"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not UTF-8"))?;
        serde_saphyr::from_str(text).map_err(|_| damaged("it is not readable"))
    }

    /// Stores a marker, durably, and then removes those of the version that it supersedes. Doing it twice changes
    /// nothing.
    pub async fn put_marker(&self, marker: &VersionMarker) -> Result<(), BlobError> {
        let (text, marker) = (yaml(marker)?, marker.clone());
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("writing a marker", move || directory.put_marker(&marker, text.as_bytes())).await
            }
        }
    }

    /// Stores the head of the audit log's chain in the place of the one before, durably.
    pub async fn put_audit_head(&self, head: Vec<u8>) -> Result<(), BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("writing the audit log's head", move || directory.put_audit_head(&head)).await
            }
        }
    }

    /// The head of the audit log's chain, if there is one.
    pub async fn get_audit_head(&self) -> Result<Option<Bytes>, BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("reading the audit log's head", move || directory.get_audit_head()).await
            }
        }
    }
}

fn yaml(document: &impl serde::Serialize) -> Result<String, BlobError> {
    serde_saphyr::to_string(document).map_err(|error| BlobError::Io {
        doing: "writing YAML",
        error: std::io::Error::other(error.to_string()),
    })
}
