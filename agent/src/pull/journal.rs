//! The journal: what a change does to the target, written before it begins. Every operation can tell whether it
//! has been done, so a change that was interrupted is finished by doing it again.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::Path;

use kkartifact_model::manifest::Mode;
use serde::{Deserialize, Serialize};

use super::state::State;
use crate::error::{AgentError, Kind, Result};

/// What the whole change is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What will be in place.
    pub to: State,
    /// How many operations there are.
    pub operations: u64,
}

/// What happens to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What is staged changes places with what is there. Done if the inode in place is this one.
    Exchange {
        /// The staged one.
        inode: u64,
    },
    /// What is staged takes a free place. Done if the inode in place is this one.
    MoveIn {
        /// The staged one.
        inode: u64,
    },
    /// What is there goes to the staging tree. Done if the inode in place is not this one.
    MoveOut {
        /// The one in place.
        inode: u64,
    },
    /// The permission bits change.
    Chmod {
        /// To these.
        mode: Mode,
    },
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Where, relative to the target.
    pub path: String,
    /// What.
    pub action: Action,
}

const EXCHANGE: u8 = 0;
const MOVE_IN: u8 = 1;
const MOVE_OUT: u8 = 2;
const CHMOD: u8 = 3;

/// Operations being written, in path order.
pub struct OperationWriter {
    out: BufWriter<File>,
    count: u64,
}

impl OperationWriter {
    /// Begins a list. With a header it is a journal.
    pub fn create(path: &Path, header: Option<&Header>) -> Result<Self> {
        let file = File::create(path).map_err(AgentError::io(format!("creating {}", path.display())))?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        let text = header.map(|header| serde_json::to_vec(header).unwrap_or_default()).unwrap_or_default();
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        out.write_all(&len)
            .and_then(|()| out.write_all(&text))
            .map_err(AgentError::io("writing the journal"))?;
        Ok(Self { out, count: 0 })
    }

    /// Adds an operation.
    pub fn push(&mut self, path: &str, action: Action) -> Result<()> {
        let (kind, number) = match action {
            Action::Exchange { inode } => (EXCHANGE, inode),
            Action::MoveIn { inode } => (MOVE_IN, inode),
            Action::MoveOut { inode } => (MOVE_OUT, inode),
            Action::Chmod { mode } => (CHMOD, mode.bits().into()),
        };
        let len =
            u16::try_from(path.len()).map_err(|_| AgentError::new(Kind::Invalid, "a path is too long"))?;
        let mut record = vec![kind];
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&len.to_le_bytes());
        record.extend_from_slice(path.as_bytes());
        self.count += 1;
        self.out.write_all(&record).map_err(AgentError::io("writing the journal"))
    }

    /// Ends the list, synced; how many operations it has.
    pub fn finish(mut self) -> Result<u64> {
        self.out.flush().map_err(AgentError::io("writing the journal"))?;
        self.out.get_ref().sync_all().map_err(AgentError::io("syncing the journal"))?;
        Ok(self.count)
    }
}

/// Operations being read.
pub struct OperationReader {
    input: BufReader<File>,
}

impl OperationReader {
    /// Opens a list of operations and reads its header if it has one.
    pub fn open(path: &Path) -> Result<(Option<Header>, Self)> {
        let file = File::open(path).map_err(AgentError::io(format!("opening {}", path.display())))?;
        let mut reader = Self { input: BufReader::with_capacity(1 << 18, file) };
        let mut len = [0; 4];
        reader.fill(&mut len)?;
        let mut text = vec![0; u32::from_le_bytes(len) as usize];
        reader.fill(&mut text)?;
        let header = if text.is_empty() {
            None
        } else {
            let header = serde_json::from_slice(&text);
            Some(header.map_err(|error| {
                AgentError::new(Kind::Invalid, format!("the journal is not readable: {error}"))
            })?)
        };
        Ok((header, reader))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(AgentError::io("reading the journal"))
    }

    fn operation(&mut self, kind: u8) -> Result<Operation> {
        let damaged = || AgentError::new(Kind::Invalid, "the journal is damaged");
        let (mut number, mut len) = ([0; 8], [0; 2]);
        self.fill(&mut number)?;
        self.fill(&mut len)?;
        let mut path = vec![0; usize::from(u16::from_le_bytes(len))];
        self.fill(&mut path)?;
        let inode = u64::from_le_bytes(number);
        let action = match kind {
            EXCHANGE => Action::Exchange { inode },
            MOVE_IN => Action::MoveIn { inode },
            MOVE_OUT => Action::MoveOut { inode },
            CHMOD => Action::Chmod { mode: Mode::from_bits(u32::try_from(inode).map_err(|_| damaged())?) },
            _ => return Err(damaged()),
        };
        Ok(Operation { path: String::from_utf8(path).map_err(|_| damaged())?, action })
    }
}

impl Iterator for OperationReader {
    type Item = Result<Operation>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut kind = [0];
        match self.input.read(&mut kind) {
            Ok(0) => None,
            Ok(_) => Some(self.operation(kind[0])),
            Err(error) => Some(Err(AgentError::io("reading the journal")(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let operations = [
            ("a", Action::Exchange { inode: 1 }),
            ("b/c", Action::MoveIn { inode: u64::MAX }),
            ("d", Action::MoveOut { inode: 3 }),
            ("ü", Action::Chmod { mode: Mode::from_bits(0o750) }),
        ];
        let mut writer = OperationWriter::create(&path, None).unwrap();
        for (path, action) in operations {
            writer.push(path, action).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 4);
        let (header, reader) = OperationReader::open(&path).unwrap();
        assert!(header.is_none());
        let read: Vec<_> = reader.map(Result::unwrap).map(|op| (op.path, op.action)).collect();
        assert_eq!(read, operations.map(|(path, action)| (path.to_owned(), action)));
    }
}
