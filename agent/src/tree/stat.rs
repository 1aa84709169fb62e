//! What is in a directory.

use std::os::fd::AsFd;

use kkartifact_model::manifest::{Mode, Mtime};
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Something that can't be part of a version.
    Other(&'static str),
}

/// What the file system says of a file: enough to tell that it has not been written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: Mode,
    /// Whether set-user-id, set-group-id or sticky bits are set, which are not carried.
    pub special_bits: bool,
    /// Bytes.
    pub size: u64,
    /// When its content was last written, as far as anybody can say.
    pub mtime: Mtime,
    /// When anything about it last changed; only the kernel sets it.
    pub ctime: Mtime,
    /// Which file.
    pub ino: u64,
    /// On which file system.
    pub dev: u64,
}

impl From<&Stat> for FileStat {
    fn from(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Socket => Kind::Other("a socket"),
            FileType::Fifo => Kind::Other("a named pipe"),
            FileType::BlockDevice | FileType::CharacterDevice => Kind::Other("a device"),
            FileType::Unknown => Kind::Other("of an unknown kind"),
        };
        let time = |secs, nanos| Mtime { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
        Self {
            kind,
            mode: Mode::from_bits(stat.st_mode),
            special_bits: stat.st_mode & 0o7000 != 0,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            ino: stat.st_ino,
            dev: stat.st_dev,
        }
    }
}

/// One name in a directory.
#[derive(Debug, Clone)]
pub struct Found {
    /// The name; `None` if it is not UTF-8.
    pub name: Option<String>,
    /// The name as people see it.
    pub shown: String,
    /// What is there.
    pub stat: FileStat,
}

/// What is in a directory, sorted by the bytes of the names. What vanishes meanwhile is left out.
pub fn list(dir: impl AsFd) -> Result<Vec<Found>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileStat::from(&stat),
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let shown = name.to_string_lossy().into_owned();
        found.push(Found { name: name.to_str().ok().map(str::to_owned), shown, stat });
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name).then_with(|| a.shown.cmp(&b.shown)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_nothing_that_a_version_can_have() {
        let dev = std::fs::File::open("/dev").unwrap();
        let found = list(&dev).unwrap();
        let null = found.iter().find(|found| found.shown == "null").unwrap();
        assert_eq!(null.stat.kind, Kind::Other("a device"));
    }
}
