//! A version as a zip. Sizes and checksums stand behind each file and at the end, since nothing is known
//! before.

use std::io::{self, Write};

use ::zip::write::{FullFileOptions, StreamWriter};
use ::zip::{CompressionMethod, DateTime, System, ZipWriter};
use chrono::{Datelike as _, Timelike as _};
use kkartifact_model::manifest::{Entry, Mode, Mtime, Node};

use super::contents::Contents;
use super::pieces::{Buffered, Pieces};

const DEFLATE_LEVEL: i64 = 6;
/// From here on sizes are written with 64 bits. Below 4 GiB, since what does not compress grows a little.
const LARGE: u64 = 4_000_000_000;
/// What the mode of a link is on Linux.
const LINK_MODE: Mode = Mode::from_bits(0o777);

/// The times that the format knows, 1980 to 2107, in seconds since 1970.
const TIMES: (i64, i64) = (315_532_800, 4_354_819_198);
/// The extra field with times in seconds since 1970 (Info-ZIP: extended timestamp)…
const EXTENDED_TIMESTAMP: u16 = 0x5455;
/// … of which only the modification's is there.
const MODIFICATION: u8 = 1;

/// Writes all entries, and the end.
pub(super) fn write(contents: &mut Contents, pieces: &Pieces) -> io::Result<()> {
    let mut archive = ZipWriter::new_stream(Buffered::new(pieces));
    add_all(contents, &mut archive).inspect_err(|_| pieces.close())?;
    archive.finish()?.into_inner().flush()
}

fn add_all<W: Write>(contents: &mut Contents, archive: &mut ZipWriter<StreamWriter<W>>) -> io::Result<()> {
    while let Some(entry) = contents.next_entry()? {
        add(contents, archive, &entry)?;
    }
    Ok(())
}

fn add<W: Write>(
    contents: &mut Contents,
    archive: &mut ZipWriter<StreamWriter<W>>,
    entry: &Entry,
) -> io::Result<()> {
    let path = entry.path.as_str();
    match &entry.node {
        Node::File(file) => {
            let options = options(file.mode, file.mtime.unwrap_or(contents.published))?
                .compression_method(CompressionMethod::Deflated)
                .compression_level(Some(DEFLATE_LEVEL))
                .large_file(file.size >= LARGE);
            archive.start_file(path, options)?;
            io::copy(&mut contents.bytes(file), archive)?;
        }
        Node::Directory { mode } => {
            archive.add_directory(format!("{path}/"), options(*mode, contents.published)?)?;
        }
        Node::Symlink { target } => {
            archive.add_symlink(path, target, options(LINK_MODE, contents.published)?)?;
        }
    }
    Ok(())
}

fn options(mode: Mode, time: Mtime) -> io::Result<FullFileOptions<'static, 'static>> {
    let mut options = FullFileOptions::default()
        .system(System::Unix)
        .unix_permissions(mode.bits())
        .last_modified_time(dos_time(time));
    if let Ok(seconds) = i32::try_from(time.secs) {
        let mut field = vec![MODIFICATION];
        field.extend(seconds.to_le_bytes());
        options.add_extra_field(EXTENDED_TIMESTAMP, field, false)?;
    }
    Ok(options)
}

/// The nearest time that the format knows. It has no time zone; this is UTC.
fn dos_time(time: Mtime) -> DateTime {
    let known = || {
        let time = chrono::DateTime::from_timestamp(time.secs.clamp(TIMES.0, TIMES.1), 0)?;
        let byte = |number: u32| u8::try_from(number).ok();
        DateTime::from_date_and_time(
            u16::try_from(time.year()).ok()?,
            byte(time.month())?,
            byte(time.day())?,
            byte(time.hour())?,
            byte(time.minute())?,
            byte(time.second())?,
        )
        .ok()
    };
    known().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_format_become_the_nearest_that_it_knows() {
        for (secs, expected) in [
            (i64::MIN, "1980-01-01 00:00:00"),
            (0, "1980-01-01 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
            (i64::MAX, "2107-12-31 23:59:58"),
        ] {
            assert_eq!(dos_time(Mtime { secs, nanos: 0 }).to_string(), expected, "{secs}");
        }
    }
}
