//! Builds: what is pushed, and what must come back. Made from seeds, so that nothing has to be kept but these.

use std::collections::BTreeMap;
use std::path::Path;

use kkartifact_model::FileDigest;
use kkartifact_testkit::tree::{Node, content, noise, write};

/// Apps of two projects. The first [`PUSHED`] get a version after the other.
pub(crate) const APPS: [(&str, &str); 6] = [
    ("shop", "web"),
    ("shop", "api"),
    ("media", "player"),
    ("media", "index"),
    // Uploads that stay open for a while.
    ("media", "drafts"),
    // What is read slowly.
    ("shop", "files"),
];
/// How many apps are pushed to by agents, version after version.
pub(crate) const PUSHED: usize = 4;
/// The app of uploads that stay open for a while.
pub(crate) const DRAFTS: usize = 4;
/// The app of what is read slowly.
pub(crate) const FILES: usize = 5;

/// How much is done in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Bytes of a file.
    pub(crate) file: usize,
    /// Files that all versions of all apps of a project have.
    pub(crate) core: u64,
    /// Pushes of each app.
    pub(crate) pushes: u64,
    /// Pulls of each worker.
    pub(crate) pulls: u64,
    /// Deletions.
    pub(crate) deletes: u64,
}

impl Scale {
    /// Versions of 3 MiB.
    pub(crate) const SMALL: Self = Self { file: 256 << 10, core: 7, pushes: 1, pulls: 2, deletes: 2 };
    /// Versions of 15 MiB.
    pub(crate) const LARGE: Self = Self { file: 1 << 20, core: 10, pushes: 2, pulls: 4, deletes: 4 };
}

/// A number that is the same for the same seed and parts.
pub(crate) fn noise_of(seed: u64, parts: &[u64]) -> u64 {
    parts.iter().fold(seed, |seed, part| {
        let bytes: [u8; 8] = noise(seed ^ part.rotate_left(17), 8).try_into().unwrap();
        u64::from_le_bytes(bytes)
    })
}

/// The files of a version: path → seed and length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Build(BTreeMap<String, (u64, usize)>);

impl Build {
    /// The build of a version: most of it is also in others of the app, and of the project.
    pub(crate) fn of(seed: u64, scale: &Scale, app: usize, number: u64) -> Self {
        let (app_number, project) = (app as u64, u64::from(APPS[app].0 == "shop"));
        let mut build = Self::default();
        for i in 0..scale.core {
            build.add(format!("core/{i}.bin"), seed, &[1, project, i], scale.file);
        }
        for i in 0..3 {
            build.add(format!("own/{i}.bin"), seed, &[2, app_number, i, (number + i) / 3], scale.file);
        }
        for i in 0..2 {
            build.add(format!("new/{i}.bin"), seed, &[3, app_number, i, number], scale.file);
        }
        build.add("VERSION".to_owned(), seed, &[4, app_number, number], 60);
        build
    }

    /// Adds a file, whose content is the same for the same seed and parts.
    pub(crate) fn add(&mut self, path: String, seed: u64, parts: &[u64], len: usize) {
        self.0.insert(path, (noise_of(seed, parts), len));
    }

    /// The files and their bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        self.0.iter().map(|(path, (seed, len))| (path.as_str(), noise(*seed, *len)))
    }

    /// Writes it to an empty directory.
    pub(crate) fn write(&self, dir: &Path) {
        for (path, bytes) in self.files() {
            write(dir, path, &bytes);
        }
    }

    /// Compares a directory with it.
    pub(crate) fn check(&self, dir: &Path, what: &str) {
        let digest = |(path, node)| match node {
            Node::File(_, bytes, _) => Some((path, FileDigest::of(&bytes))),
            _ => None,
        };
        let found: BTreeMap<String, FileDigest> = content(dir).into_iter().filter_map(digest).collect();
        let expected: BTreeMap<String, FileDigest> =
            self.files().map(|(path, bytes)| (path.to_owned(), FileDigest::of(&bytes))).collect();
        let differs: Vec<_> =
            expected.iter().filter(|(path, digest)| found.get(*path) != Some(*digest)).collect();
        assert!(differs.is_empty(), "{what}: these differ: {differs:?}");
        assert_eq!(found.len(), expected.len(), "{what}: there are others");
    }
}
