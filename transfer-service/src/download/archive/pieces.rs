//! Where an archive goes: the pieces of a body.

use std::cell::Cell;
use std::io::{self, Write};

use bytes::Bytes;
use kkartifact_service::ApiError;
use kkartifact_service::http::stream::Outgoing;
use tokio::runtime::Handle;

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Somebody has decided that nothing more is sent.
    Closed,
    /// The receiver is gone.
    Unwanted,
}

/// A body that is sent from a thread that may block.
pub(super) struct Pieces {
    handle: Handle,
    sender: Outgoing,
    state: Cell<State>,
    sent: Cell<u64>,
}

impl Pieces {
    pub(super) fn new(sender: Outgoing) -> Self {
        Self { handle: Handle::current(), sender, state: Cell::new(State::Open), sent: Cell::new(0) }
    }

    /// From here on what is written is thrown away. Writers of archives and compressors write an end when
    /// they are dropped, and an archive that broke off must not get one.
    pub(super) fn close(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Closed);
        }
    }

    /// Whether the receiver is gone.
    pub(super) fn are_unwanted(&self) -> bool {
        self.state.get() == State::Unwanted
    }

    /// How many bytes were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Ends with an error: the answer, if nothing has been sent; else the connection is cut, so that nobody takes a part
    /// for the whole.
    pub(super) fn fail(&self, error: ApiError) {
        self.handle.block_on(self.sender.fail(error));
    }

    fn send(&self, piece: Bytes) -> io::Result<()> {
        if self.state.get() != State::Open {
            return Ok(());
        }
        let len = piece.len() as u64;
        if self.handle.block_on(self.sender.send(piece)) {
            self.sent.set(self.sent.get() + len);
            return Ok(());
        }
        self.state.set(State::Unwanted);
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Makes pieces of what is written. What is in it when it is dropped is lost: flush it.
pub(super) struct Buffered<'a> {
    pieces: &'a Pieces,
    buffer: Vec<u8>,
}

impl<'a> Buffered<'a> {
    pub(super) fn new(pieces: &'a Pieces) -> Self {
        Self { pieces, buffer: Vec::with_capacity(PIECE) }
    }
}

impl Write for Buffered<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.pieces.send(piece.into())
    }
}
