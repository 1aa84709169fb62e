//! A stream of records as it arrives, for a thread that may block.

use bytes::Bytes;
use kkartifact_model::manifest::{Record, RecordRun};
use kkartifact_model::wire::{BadStream, Frame, FrameReader};
use kkartifact_service::{ApiError, ApiResult};
use tokio::sync::mpsc;

/// Frames as they arrive.
pub(super) struct Frames {
    pieces: mpsc::Receiver<ApiResult<Bytes>>,
    reader: FrameReader,
}

impl Frames {
    pub(super) fn new(pieces: mpsc::Receiver<ApiResult<Bytes>>) -> Self {
        Self { pieces, reader: FrameReader::default() }
    }

    /// The next frame; an error if the stream is cut before its end frame.
    pub(super) fn next_frame(&mut self) -> ApiResult<Frame> {
        loop {
            if let Some(frame) = self.reader.next_frame()? {
                return Ok(frame);
            }
            let piece = self.pieces.blocking_recv().ok_or(BadStream("it ends without its end frame"))??;
            self.reader.push(&piece);
        }
    }
}

/// The records of a stream in order. Ends after the end frame; anything else that ends it is an error.
pub(super) struct RecordStream {
    frames: Frames,
    run: RecordRun,
    count: u64,
    ended: bool,
}

impl RecordStream {
    pub(super) fn new(pieces: mpsc::Receiver<ApiResult<Bytes>>) -> Self {
        Self { frames: Frames::new(pieces), run: RecordRun::default(), count: 0, ended: false }
    }

    fn load(&mut self) -> ApiResult<()> {
        match self.frames.next_frame()? {
            Frame::Records(run) => {
                self.run = RecordRun::new(run);
                Ok(())
            }
            Frame::End(count) if count == self.count => {
                self.ended = true;
                Ok(())
            }
            Frame::End(_) => Err(BadStream("the end frame counts other records").into()),
            Frame::Chunks(_) => Err(BadStream("chunks among records").into()),
            Frame::Error(error) => {
                Err(ApiError::invalid(format!("the sender gave up: {}", error.error.message)))
            }
        }
    }
}

impl Iterator for RecordStream {
    type Item = ApiResult<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some(record) = self.run.next() {
                self.count += 1;
                self.ended = record.is_err();
                return Some(record.map_err(ApiError::from));
            }
            if let Err(error) = self.load() {
                self.ended = true;
                return Some(Err(error));
            }
        }
        None
    }
}
