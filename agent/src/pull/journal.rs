//! The journal: what a change does to the target, written before it begins. Every operation can tell whether it
//! has been done, so a change that was interrupted is finished by doing it again.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::Path;

use kkartifact_model::manifest::Mode;
use serde::{Deserialize, Serialize};

use super::report::Pending;
use super::state::State;
use crate::error::{AgentError, Kind, Result};

/// What the whole change is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What will be in place.
    pub to: State,
    /// How many operations there are.
    pub operations: u64,
    /// Whether the same content is put back in order. Then what was before stays what was before.
    #[serde(default)]
    pub repair: bool,
    /// What the server is told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Pending>,
}

/// What happens to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What is staged changes places with what is there. Done if the staging tree no longer holds this inode.
    Exchange {
        /// The staged one.
        inode: u64,
    },
    /// What is staged takes a free place. Done if the staging tree no longer holds this inode.
    MoveIn {
        /// The staged one.
        inode: u64,
    },
    /// What is there goes to the staging tree. Done if the staging tree has it.
    MoveOut,
    /// The permission bits change.
    Chmod {
        /// What they were.
        from: Mode,
        /// What they will be.
        to: Mode,
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
            Action::MoveOut => (MOVE_OUT, 0),
            Action::Chmod { from, to } => (CHMOD, u64::from(from.bits()) << 32 | u64::from(to.bits())),
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

    /// Reads a journal to its end: a damaged one must not be half done.
    pub fn check(path: &Path) -> Result<Header> {
        let (header, operations) = Self::open(path)?;
        let header = header.ok_or_else(damaged)?;
        let mut count = 0;
        for operation in operations {
            operation?;
            count += 1;
        }
        if count == header.operations { Ok(header) } else { Err(damaged()) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(AgentError::io("reading the journal"))
    }

    fn operation(&mut self, kind: u8) -> Result<Operation> {
        let mode =
            |bytes: std::result::Result<[u8; 4], _>| Mode::from_bits(bytes.map_or(0, u32::from_le_bytes));
        let (mut number, mut len) = ([0; 8], [0; 2]);
        self.fill(&mut number)?;
        self.fill(&mut len)?;
        let mut path = vec![0; usize::from(u16::from_le_bytes(len))];
        self.fill(&mut path)?;
        let inode = u64::from_le_bytes(number);
        let action = match kind {
            EXCHANGE => Action::Exchange { inode },
            MOVE_IN => Action::MoveIn { inode },
            MOVE_OUT => Action::MoveOut,
            CHMOD => Action::Chmod { from: mode(number[4..].try_into()), to: mode(number[..4].try_into()) },
            _ => return Err(damaged()),
        };
        let path = String::from_utf8(path).map_err(|_| damaged())?;
        // A path that leads out is none of ours, whoever wrote it.
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(damaged());
        }
        Ok(Operation { path, action })
    }
}

fn damaged() -> AgentError {
    AgentError::new(Kind::Invalid, "the journal of an interrupted change is damaged")
        .hint("remove the state directory beside the target, then kkartifact-agent adopt and pull")
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
    fn paths_that_lead_out_and_cut_journals_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        for bad in ["..", "a/../../b", "/etc/shadow", "a//b", ""] {
            let mut writer = OperationWriter::create(&path, None).unwrap();
            writer.push(bad, Action::MoveOut).unwrap();
            writer.finish().unwrap();
            let (_, mut reader) = OperationReader::open(&path).unwrap();
            assert_eq!(reader.next().unwrap().unwrap_err().kind, Kind::Invalid, "{bad:?}");
        }
        let header = Header { to: State::sample(), operations: 2, repair: false, report: None };
        let mut writer = OperationWriter::create(&path, Some(&header)).unwrap();
        for path in ["a", "b"] {
            writer.push(path, Action::MoveOut).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(OperationReader::check(&path).unwrap(), header);
        let whole = std::fs::read(&path).unwrap();
        for cut in [3, 20, whole.len() - 12, whole.len() - 5] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(OperationReader::check(&path).is_err(), "{cut}");
        }
    }

    #[test]
    fn operations_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let operations = [
            ("a", Action::Exchange { inode: 1 }),
            ("b/c", Action::MoveIn { inode: u64::MAX }),
            ("d", Action::MoveOut),
            ("ü", Action::Chmod { from: Mode::from_bits(0o555), to: Mode::from_bits(0o750) }),
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
