//! Records one by one, out of a run that came through a stream.

use bytes::{Buf as _, Bytes};

use super::Malformed;
use super::record::{Record, RecordReader};
use super::varint::Cursor;

/// A run of records that owns its bytes, for runs that come out of a stream. Holds one record at a time.
#[derive(Debug, Default)]
pub struct RecordRun {
    run: Bytes,
    previous: String,
    seconds: i64,
}

impl RecordRun {
    /// Starts at the start of a run.
    pub fn new(run: impl Into<Bytes>) -> Self {
        Self { run: run.into(), ..Self::default() }
    }
}

impl Iterator for RecordRun {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let previous = std::mem::take(&mut self.previous);
        let mut reader = RecordReader { rest: Cursor(&self.run), previous, seconds: self.seconds };
        let record = reader.next();
        let read = self.run.len() - reader.rest.0.len();
        (self.previous, self.seconds) = (reader.previous, reader.seconds);
        self.run.advance(read);
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TreePath;
    use crate::manifest::RecordWriter;

    #[test]
    fn a_run_is_read_as_by_a_reader_and_a_thousandfold_run_is_not_unfolded() {
        let long = "d/".repeat(100) + &"x".repeat(200);
        let mut writer = RecordWriter::default();
        for _ in 0..10_000 {
            writer.push(&Record::Removed(TreePath::new(long.as_str()).unwrap()));
        }
        let run = writer.take();
        assert!(run.len() < 100_000, "prefixes are shared: {}", run.len());
        let read: Vec<_> = RecordReader::new(&run).take(3).collect();
        let mut lazily = RecordRun::new(run);
        let left = lazily.run.len();
        assert_eq!(lazily.by_ref().take(3).collect::<Vec<_>>(), read);
        assert!(lazily.run.len() > left - 500, "only what was asked for has been read");
        assert_eq!(lazily.count(), 9997);
        let mut bad = RecordRun::new(vec![0xff; 10]);
        assert!(bad.next().unwrap().is_err() && bad.next().is_none(), "an error is the end");
    }
}
