//! The binary streams between agent and transfer service.
//!
//! A stream is a row of frames: one byte kind, four bytes length (little endian), payload. It always ends with
//! [`Frame::End`] or [`Frame::Error`]; a stream that just stops was cut.
//!
//! | frame | payload |
//! |---|---|
//! | records | length of the records, then the records, compressed if that is shorter |
//! | chunks | count, (id, length, stored length)\*, then the stored bytes of each; the length's top bits tell the first and the last chunk of a file |
//! | ordered chunks | the same without ids: the receiver asked for them in this order |
//! | end | how many items (entries, chunks) the stream had |
//! | error | an error body as JSON |

mod chunk;
mod frame;

pub use chunk::{BatchWriter, Compressor, Part, StoredChunk, WireChunk, decompress};
pub use frame::{Frame, FrameReader, encode_end, encode_error, encode_records};

/// The media type of these streams. Its number changes when a reader of the old one would misread the new one.
pub const STREAM_TYPE: &str = "application/vnd.kkartifact.stream.v1";

/// The most bytes of a frame's payload: bounds what a reader holds. The largest frame is one entry with the
/// chunk list of a file of the largest size.
pub const MAX_FRAME: usize = 32 << 20;

/// A stream that breaks the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed stream: {0}")]
pub struct BadStream(pub &'static str);
