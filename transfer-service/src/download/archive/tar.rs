//! A version as a tar.
//!
//! In GNU's form, since small `tar` programs know its long names and not those of pax. A pax header stands
//! only before files whose time does not fit: who does not know it loses a fraction of a second.

use std::io::{self, Write};

use ::tar::{Builder, EntryType, Header};
use kkartifact_model::manifest::{Entry, Mode, Mtime, Node};

use super::contents::Contents;
use super::pieces::Pieces;

/// What the mode of a link is on Linux.
const LINK_MODE: Mode = Mode::from_bits(0o777);

/// Writes all entries, and the end.
pub(super) fn write<W: Write>(contents: &mut Contents, pieces: &Pieces, to: W) -> io::Result<W> {
    let mut archive = Builder::new(to);
    append_all(contents, &mut archive).inspect_err(|_| pieces.close())?;
    archive.into_inner()
}

fn append_all<W: Write>(contents: &mut Contents, archive: &mut Builder<W>) -> io::Result<()> {
    while let Some(entry) = contents.next_entry()? {
        append(contents, archive, &entry)?;
    }
    Ok(())
}

fn append<W: Write>(contents: &mut Contents, archive: &mut Builder<W>, entry: &Entry) -> io::Result<()> {
    let path = entry.path.as_str();
    match &entry.node {
        Node::File(file) => {
            let time = file.mtime.unwrap_or(contents.published);
            if let Some(exact) = exact_time(time) {
                archive.append_pax_extensions([("mtime", exact.as_bytes())])?;
            }
            let mut header = header(EntryType::Regular, file.mode, time);
            header.set_size(file.size);
            archive.append_data(&mut header, path, contents.bytes(file))
        }
        Node::Directory { mode } => {
            let mut header = header(EntryType::Directory, *mode, contents.published);
            archive.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Node::Symlink { target } => {
            let mut header = header(EntryType::Symlink, LINK_MODE, contents.published);
            // Where it fits, word for word: `append_link` would tidy it up.
            if header.set_link_name_literal(target).is_ok() {
                archive.append_data(&mut header, path, io::empty())
            } else {
                archive.append_link(&mut header, path, target)
            }
        }
    }
}

/// A header without path and size. All belongs to root, which unpacking by anybody else ignores.
fn header(kind: EntryType, mode: Mode, time: Mtime) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode.bits());
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mtime(u64::try_from(time.secs).unwrap_or(0));
    header
}

/// The time as pax writes it, if a header can't hold it.
fn exact_time(time: Mtime) -> Option<String> {
    if time.nanos > 0 && time.secs < 0 {
        // Nanoseconds count forward from the second; the fraction of a negative number counts backward.
        let fraction = 1_000_000_000u32.saturating_sub(time.nanos);
        Some(format!("-{}.{fraction:09}", (time.secs + 1).unsigned_abs()))
    } else if time.nanos > 0 {
        Some(format!("{}.{:09}", time.secs, time.nanos))
    } else if time.secs < 0 {
        Some(time.secs.to_string())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_a_header_cannot_hold_are_written_out() {
        for (secs, nanos, expected) in [
            (0, 0, None),
            (1_700_000_000, 0, None),
            (1_700_000_000, 5, Some("1700000000.000000005")),
            (-5, 0, Some("-5")),
            (-2, 500_000_000, Some("-1.500000000")),
            (-1, 999_999_999, Some("-0.000000001")),
        ] {
            assert_eq!(exact_time(Mtime { secs, nanos }).as_deref(), expected, "{secs} {nanos}");
        }
    }
}
