//! The binary form of entries and of changes to a base manifest.
//!
//! A run of records shares path prefixes and counts times from the record before, so a run is always read from
//! its start. Integers are LEB128.
//!
//! ```text
//! record   = shared suffix-len suffix tag [mode] [mtime-delta nanos] body
//! tag      = kind (bits 0-1: file, directory, symlink, removed) | mode (bit 2: 0644/0755, bit 3: 0755 for a
//!            file, else a number follows) | bit 4: a time follows | chunks (bits 5-6: none, one, list, segments)
//! file     = size sha256 chunks
//! chunks   = one: id | list: count (len id)* | segments: count (0 count (len id)* | 1 start count)*
//! symlink  = target-len target
//! ```

use super::entry::{ChunkRef, Entry, FileNode, Mode, Mtime, Node};
use super::varint::{Cursor, put, put_signed};
use super::{Malformed, diff::Segment};
use crate::{ChunkId, FileDigest, TreePath};

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const SYMLINK: u8 = 2;
const REMOVED: u8 = 3;
const MODE_DEFAULT: u8 = 1 << 2;
const MODE_EXECUTABLE: u8 = 1 << 3;
const HAS_TIME: u8 = 1 << 4;
const ONE_CHUNK: u8 = 1 << 5;
const CHUNK_LIST: u8 = 2 << 5;
const SEGMENTS: u8 = 3 << 5;
const CHUNKS: u8 = 3 << 5;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This is at the path (now).
    Put(Entry),
    /// A file whose chunk list is told by the list of the base's file at the same path. The entry's own list
    /// is empty.
    Patch(Entry, Vec<Segment>),
    /// Nothing is at the path any more.
    Removed(TreePath),
}

impl Record {
    /// The path that the record is about.
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Put(entry) | Self::Patch(entry, _) => &entry.path,
            Self::Removed(path) => path,
        }
    }
}

/// Writes a run of records.
#[derive(Debug, Default)]
pub struct RecordWriter {
    out: Vec<u8>,
    previous: String,
    seconds: i64,
    without_times: bool,
}

impl RecordWriter {
    /// A writer that leaves modification times out.
    pub fn without_times() -> Self {
        Self { without_times: true, ..Self::default() }
    }

    /// Bytes written since the last [`Self::take`].
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing has been written since the last [`Self::take`].
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The run so far; the next record starts a new one.
    pub fn take(&mut self) -> Vec<u8> {
        self.previous.clear();
        self.seconds = 0;
        std::mem::take(&mut self.out)
    }

    /// Adds any record.
    pub fn push(&mut self, record: &Record) {
        match record {
            Record::Put(entry) => self.put(entry),
            Record::Patch(entry, segments) => self.write(entry, Some(segments)),
            Record::Removed(path) => {
                self.path(path.as_str());
                self.out.push(REMOVED);
            }
        }
    }

    /// Adds an entry.
    pub fn put(&mut self, entry: &Entry) {
        self.write(entry, None);
    }

    fn path(&mut self, path: &str) {
        let same = self.previous.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        let shared = path.floor_char_boundary(same);
        put(&mut self.out, shared as u64);
        put(&mut self.out, (path.len() - shared) as u64);
        self.out.extend_from_slice(&path.as_bytes()[shared..]);
        path.clone_into(&mut self.previous);
    }

    fn write(&mut self, entry: &Entry, segments: Option<&[Segment]>) {
        self.path(entry.path.as_str());
        match &entry.node {
            Node::File(file) => self.file(file, segments),
            Node::Directory { mode } => {
                let flag = if *mode == Mode::EXECUTABLE { MODE_DEFAULT } else { 0 };
                self.out.push(DIRECTORY | flag);
                if flag == 0 {
                    put(&mut self.out, mode.bits().into());
                }
            }
            Node::Symlink { target } => {
                self.out.push(SYMLINK);
                put(&mut self.out, target.len() as u64);
                self.out.extend_from_slice(target.as_bytes());
            }
        }
    }

    fn file(&mut self, file: &FileNode, segments: Option<&[Segment]>) {
        let mode = match file.mode {
            Mode::FILE => MODE_DEFAULT,
            Mode::EXECUTABLE => MODE_EXECUTABLE,
            _ => 0,
        };
        let chunks = match (segments, file.chunks.len()) {
            (Some(_), _) => SEGMENTS,
            (None, 0) => 0,
            (None, 1) => ONE_CHUNK,
            (None, _) => CHUNK_LIST,
        };
        let mtime = file.mtime.filter(|_| !self.without_times);
        self.out.push(FILE | mode | mtime.map_or(0, |_| HAS_TIME) | chunks);
        if mode == 0 {
            put(&mut self.out, file.mode.bits().into());
        }
        if let Some(mtime) = mtime {
            put_signed(&mut self.out, mtime.secs.wrapping_sub(self.seconds));
            put(&mut self.out, mtime.nanos.into());
            self.seconds = mtime.secs;
        }
        put(&mut self.out, file.size);
        self.out.extend_from_slice(file.sha256.as_bytes());
        match (segments, file.chunks.as_slice()) {
            (Some(segments), _) => self.segments(segments),
            (None, []) => {}
            (None, [chunk]) => self.out.extend_from_slice(chunk.id.as_bytes()),
            (None, chunks) => self.chunks(chunks),
        }
    }

    fn chunks(&mut self, chunks: &[ChunkRef]) {
        put(&mut self.out, chunks.len() as u64);
        for chunk in chunks {
            put(&mut self.out, chunk.len.into());
            self.out.extend_from_slice(chunk.id.as_bytes());
        }
    }

    fn segments(&mut self, segments: &[Segment]) {
        put(&mut self.out, segments.len() as u64);
        for segment in segments {
            match segment {
                Segment::New(chunks) => {
                    self.out.push(0);
                    self.chunks(chunks);
                }
                Segment::Copy { start, count } => {
                    self.out.push(1);
                    put(&mut self.out, u64::from(*start));
                    put(&mut self.out, u64::from(*count));
                }
            }
        }
    }
}

/// Reads a run of records, one at a time. Paths share prefixes, so all records of a run together can be a thousand
/// times as large as the run: never collect what a stranger has sent; see [`RecordRun`](super::RecordRun).
pub struct RecordReader<'a> {
    pub(super) rest: Cursor<'a>,
    pub(super) previous: String,
    pub(super) seconds: i64,
}

impl<'a> RecordReader<'a> {
    /// Starts at the start of a run.
    pub fn new(run: &'a [u8]) -> Self {
        Self { rest: Cursor(run), previous: String::new(), seconds: 0 }
    }

    fn record(&mut self) -> Result<Record, Malformed> {
        let path = self.path()?;
        let tag = self.rest.byte()?;
        let node = match tag & 3 {
            FILE => {
                let (file, segments) = self.file(tag)?;
                if let Some(segments) = segments {
                    return Ok(Record::Patch(Entry { path, node: Node::File(file) }, segments));
                }
                Node::File(file)
            }
            DIRECTORY => Node::Directory { mode: self.mode(tag, Mode::EXECUTABLE)? },
            SYMLINK => {
                let len = self.rest.number()?;
                Node::Symlink { target: self.rest.text(len)?.to_owned() }
            }
            _ => return Ok(Record::Removed(path)),
        };
        Ok(Record::Put(Entry { path, node }))
    }

    fn path(&mut self) -> Result<TreePath, Malformed> {
        let shared = self.rest.number()?;
        let suffix = self.rest.number()?;
        let suffix = self.rest.text(suffix)?;
        if !self.previous.is_char_boundary(shared) {
            return Err(Malformed("a path's prefix is cut inside a character"));
        }
        self.previous.truncate(shared);
        self.previous.push_str(suffix);
        TreePath::new(self.previous.as_str()).map_err(|error| Malformed(error.reason))
    }

    fn mode(&mut self, tag: u8, default: Mode) -> Result<Mode, Malformed> {
        match tag & (MODE_DEFAULT | MODE_EXECUTABLE) {
            0 => {
                let bits: u32 = self.rest.number()?;
                if bits > 0o777 { Err(Malformed("a mode is above 0777")) } else { Ok(Mode::from_bits(bits)) }
            }
            MODE_EXECUTABLE => Ok(Mode::EXECUTABLE),
            _ => Ok(default),
        }
    }

    fn file(&mut self, tag: u8) -> Result<(FileNode, Option<Vec<Segment>>), Malformed> {
        let mode = self.mode(tag, Mode::FILE)?;
        let mtime = if tag & HAS_TIME == 0 { None } else { Some(self.mtime()?) };
        let size = self.rest.varint()?;
        let sha256 = FileDigest::from_bytes(self.rest.array()?);
        let (chunks, segments) = match tag & CHUNKS {
            0 => (Vec::new(), None),
            ONE_CHUNK => {
                let len = u32::try_from(size).map_err(|_| Malformed("a chunk is too large"))?;
                (vec![ChunkRef { id: self.chunk_id()?, len }], None)
            }
            CHUNK_LIST => (self.chunks()?, None),
            _ => (Vec::new(), Some(self.segments()?)),
        };
        Ok((FileNode { mode, mtime, size, sha256, chunks }, segments))
    }

    fn mtime(&mut self) -> Result<Mtime, Malformed> {
        self.seconds = self.seconds.wrapping_add(self.rest.signed()?);
        let nanos: u32 = self.rest.number()?;
        if nanos >= 1_000_000_000 {
            return Err(Malformed("a time has more than 999999999 nanoseconds"));
        }
        Ok(Mtime { secs: self.seconds, nanos })
    }

    fn chunk_id(&mut self) -> Result<ChunkId, Malformed> {
        Ok(ChunkId::from_bytes(self.rest.array()?))
    }

    fn chunks(&mut self) -> Result<Vec<ChunkRef>, Malformed> {
        let count = self.rest.count(33)?;
        (0..count)
            .map(|_| {
                let len = self.rest.number()?;
                Ok(ChunkRef { id: self.chunk_id()?, len })
            })
            .collect()
    }

    fn segments(&mut self) -> Result<Vec<Segment>, Malformed> {
        let count = self.rest.count(2)?;
        (0..count)
            .map(|_| match self.rest.byte()? {
                0 => Ok(Segment::New(self.chunks()?)),
                1 => Ok(Segment::Copy { start: self.rest.number()?, count: self.rest.number()? }),
                _ => Err(Malformed("unknown kind of segment")),
            })
            .collect()
    }
}

impl Iterator for RecordReader<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.rest = Cursor(&[]);
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> ChunkRef {
        ChunkRef { id: ChunkId::of(text.as_bytes()), len: u32::try_from(text.len()).unwrap() }
    }

    fn file(path: &str, mode: u32, mtime: Option<Mtime>, chunks: Vec<ChunkRef>) -> Entry {
        let size = chunks.iter().map(|c| u64::from(c.len)).sum();
        let sha256 = FileDigest::of(path.as_bytes());
        let node = Node::File(FileNode { mode: Mode::from_bits(mode), mtime, size, sha256, chunks });
        Entry { path: TreePath::new(path).unwrap(), node }
    }

    fn samples() -> Vec<Record> {
        let path = |p: &str| TreePath::new(p).unwrap();
        let time = |secs, nanos| Some(Mtime { secs, nanos });
        vec![
            Record::Put(Entry { path: path("d"), node: Node::Directory { mode: Mode::EXECUTABLE } }),
            Record::Put(file("d/a", 0o644, time(1_700_000_000, 1), vec![chunk("hello")])),
            Record::Put(file("d/b", 0o755, time(-5, 999_999_999), vec![])),
            Record::Put(file("d/ü", 0o600, None, vec![chunk("x"), chunk("yy"), chunk("x")])),
            Record::Put(Entry { path: path("d/û"), node: Node::Directory { mode: Mode::from_bits(0o700) } }),
            Record::Put(Entry { path: path("l"), node: Node::Symlink { target: "d/a".into() } }),
            Record::Patch(
                file("p", 0o644, time(i64::MIN, 0), vec![]),
                vec![Segment::Copy { start: 3, count: 4 }, Segment::New(vec![chunk("n")])],
            ),
            Record::Removed(path("z/z")),
        ]
    }

    #[test]
    fn records_round_trip() {
        let mut writer = RecordWriter::default();
        for record in &samples() {
            writer.push(record);
        }
        let run = writer.take();
        let read: Result<Vec<_>, _> = RecordReader::new(&run).collect();
        assert_eq!(read.unwrap(), samples());
    }

    #[test]
    fn cut_or_changed_bytes_never_panic_and_never_loop() {
        let mut writer = RecordWriter::default();
        for record in &samples() {
            writer.push(record);
        }
        let run = writer.take();
        for cut in 0..run.len() {
            assert!(RecordReader::new(&run[..cut]).count() <= samples().len() + 1);
        }
        for at in 0..run.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bad = run.clone();
                bad[at] = value;
                assert!(RecordReader::new(&bad).count() < 1000);
            }
        }
    }
}
