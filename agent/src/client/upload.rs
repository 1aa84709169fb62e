//! Pushing: init, manifest, chunks, finish.

use std::path::Path;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kkartifact_model::api::upload::{ChunksReceived, Missing, UploadFinish, UploadInit, UploadOpened};
use kkartifact_model::api::version::Version;
use kkartifact_model::wire::STREAM_TYPE;
use reqwest::{Body, Method};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Attempt, Client, PUBLISH};
use crate::error::{AgentError, Result};

/// Files are sent in pieces of this size.
const PIECE: usize = 256 << 10;

impl Client {
    /// Opens an upload.
    pub async fn upload_init(&self, init: &UploadInit) -> Result<UploadOpened> {
        self.post("/upload/init", init).await
    }

    /// Sends the manifest stream that lies in a file; what the server lacks of its content.
    pub async fn upload_manifest(&self, upload: Uuid, file: &Path) -> Result<Missing> {
        let path = format!("/upload/{upload}/manifest");
        self.retrying(|| async {
            let body = self.file_body(file).await.map_err(Attempt::Final)?;
            let request = self.request(Method::PUT, &path).header("content-type", STREAM_TYPE).body(body);
            self.answer(request.timeout(PUBLISH)).await
        })
        .await
    }

    async fn file_body(&self, file: &Path) -> Result<Body> {
        let opened = tokio::fs::File::open(file).await;
        let opened = opened.map_err(AgentError::io(format!("opening {}", file.display())))?;
        let client = self.clone();
        let pieces = stream::try_unfold(opened, move |mut file| {
            let client = client.clone();
            async move {
                let mut buffer = Vec::with_capacity(PIECE);
                (&mut file).take(PIECE as u64).read_to_end(&mut buffer).await?;
                client.count_sent(buffer.len());
                Ok::<_, std::io::Error>((!buffer.is_empty()).then_some((Bytes::from(buffer), file)))
            }
        });
        Ok(Body::wrap_stream(pieces))
    }

    /// What the server lacks now.
    pub async fn upload_missing(&self, upload: Uuid) -> Result<Missing> {
        self.get(&format!("/upload/{upload}/missing"), &[]).await
    }

    /// Sends chunks: frames as they come out of the channel. Not repeated: the frames are gone. The caller asks
    /// what is missing and makes new ones.
    pub async fn upload_chunks(
        &self,
        upload: Uuid,
        frames: mpsc::Receiver<Bytes>,
    ) -> Result<ChunksReceived, Attempt> {
        let client = self.clone();
        let pieces = stream::unfold(frames, |mut frames| async move { Some((frames.recv().await?, frames)) });
        let pieces = pieces.map(move |piece| {
            client.count_sent(piece.len());
            Ok::<_, std::io::Error>(piece)
        });
        let path = format!("/upload/{upload}/chunks");
        let request = self.request(Method::POST, &path).header("content-type", STREAM_TYPE);
        self.answer(request.body(Body::wrap_stream(pieces))).await
    }

    /// Publishes.
    pub async fn upload_finish(&self, upload: Uuid) -> Result<Version> {
        self.send(Method::POST, "/upload/finish", &UploadFinish { upload_id: upload }, PUBLISH).await
    }
}
