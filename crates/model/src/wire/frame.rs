//! Frames: writing them, and reading them from whatever pieces the network delivers.

use bytes::{Buf as _, Bytes, BytesMut};

use super::chunk::{self, WireChunk};
use super::{BadStream, MAX_FRAME};
use crate::api::error::ErrorBody;

const RECORDS: u8 = 1;
pub(super) const CHUNKS: u8 = 2;
pub(super) const ORDERED_CHUNKS: u8 = 3;
const END: u8 = 4;
const ERROR: u8 = 5;

/// The bytes of a frame's head.
pub(super) const HEAD: usize = 5;

/// One frame, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A run of manifest records.
    Records(Vec<u8>),
    /// Chunks, with ids or in the order asked for.
    Chunks(Vec<WireChunk>),
    /// The end: how many items there were.
    End(u64),
    /// The sender could not go on.
    Error(ErrorBody),
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = head(kind, payload.len()).to_vec();
    out.extend_from_slice(payload);
    out
}

/// The head of a frame whose payload is sent by itself.
pub(super) fn head(kind: u8, len: usize) -> [u8; HEAD] {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [kind, len[0], len[1], len[2], len[3]]
}

/// A frame of records.
pub fn encode_records(records: &[u8]) -> Vec<u8> {
    let mut payload = u32::try_from(records.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    match chunk::Compressor::new().compress(records) {
        Some(compressed) => payload.extend(compressed),
        None => payload.extend_from_slice(records),
    }
    frame(RECORDS, &payload)
}

/// The frame that ends a stream of so many items.
pub fn encode_end(items: u64) -> Vec<u8> {
    frame(END, &items.to_le_bytes())
}

/// The frame that ends a stream that failed.
pub fn encode_error(error: &ErrorBody) -> Vec<u8> {
    frame(ERROR, &serde_json::to_vec(error).unwrap_or_default())
}

/// Puts frames together from pieces. Holds at most one frame and one piece.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    ended: bool,
}

impl FrameReader {
    /// Adds what the network delivered.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole frame, or `None` until more has been pushed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadStream> {
        if self.ended && !self.buffer.is_empty() {
            return Err(BadStream("bytes behind the end"));
        }
        if self.buffer.len() < HEAD {
            return Ok(None);
        }
        let [kind, a, b, c, d, ..] = self.buffer[..] else { return Ok(None) };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > MAX_FRAME {
            return Err(BadStream("a frame is too large"));
        }
        if self.buffer.len() < HEAD + len {
            self.buffer.reserve(HEAD + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let payload = self.buffer.split_to(len).freeze();
        self.ended = matches!(kind, END | ERROR);
        decode(kind, payload).map(Some)
    }
}

fn decode(kind: u8, mut payload: Bytes) -> Result<Frame, BadStream> {
    match kind {
        RECORDS => {
            let len = payload.try_get_u32_le().map_err(|_| BadStream("a frame is cut short"))?;
            if len as usize > MAX_FRAME {
                return Err(BadStream("a frame is too large"));
            }
            chunk::decompress(&payload, len).map(|records| Frame::Records(records.to_vec()))
        }
        CHUNKS => chunk::decode(payload, true).map(Frame::Chunks),
        ORDERED_CHUNKS => chunk::decode(payload, false).map(Frame::Chunks),
        END => payload.try_get_u64_le().map(Frame::End).map_err(|_| BadStream("a frame is cut short")),
        ERROR => serde_json::from_slice(&payload)
            .map(Frame::Error)
            .map_err(|_| BadStream("an error is not readable")),
        _ => Err(BadStream("a frame of an unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use crate::wire::{BatchWriter, Part, StoredChunk};

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, BadStream> {
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            while let Some(frame) = reader.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_survive_any_cutting_into_pieces() {
        let mut stream = encode_records(&b"record ".repeat(100));
        let mut batch = BatchWriter::with_ids();
        for text in ["one", "two", &"long ".repeat(1000)] {
            let chunk = StoredChunk::new(&mut crate::wire::Compressor::new(), text.as_bytes());
            batch.push(&chunk, Part { first: text == "one", last: true });
        }
        batch.take().into_iter().for_each(|part| stream.extend_from_slice(&part));
        stream.extend(encode_error(&ErrorBody::new(Code::Unavailable, "later")));
        let whole = read(&stream, stream.len()).unwrap();
        assert_eq!(whole.len(), 3);
        for piece in [1, 2, 5, 6, 7, 100] {
            assert_eq!(read(&stream, piece).unwrap(), whole);
        }
    }

    #[test]
    fn hostile_streams_are_refused() {
        assert!(read(&[9, 0, 0, 0, 0], 5).is_err(), "unknown kind");
        assert!(read(&[RECORDS, 255, 255, 255, 255], 5).is_err(), "huge frame");
        assert!(read(&frame(RECORDS, &[255, 255, 255, 255, 0]), 99).is_err(), "huge records");
        assert!(read(&frame(CHUNKS, &[255, 255, 3, 0]), 99).is_err(), "more chunks than bytes");
        assert!(read(&[encode_end(0), encode_end(0)].concat(), 99).is_err(), "bytes behind the end");
    }
}
