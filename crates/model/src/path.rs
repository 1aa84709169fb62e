//! Paths inside a version's tree, their order, and which of them could collide on some file systems.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

/// The longest path in bytes: Linux's `PATH_MAX` less the final NUL.
pub const MAX_PATH: usize = 4095;
/// The longest component in bytes: `NAME_MAX` of every common file system.
pub const MAX_COMPONENT: usize = 255;
/// The deepest path. An agent holds one open directory per level.
pub const MAX_DEPTH: usize = 128;
/// The agent's configuration. It holds a token, so it is never content.
pub const CONFIG_FILE: &str = ".kkartifact.yml";
/// What the name of an agent's state directory ends with; it starts with a dot.
pub const STATE_SUFFIX: &str = ".kkartifact";

/// A relative path of a version's tree: UTF-8, `/` between components, none of them empty, `.`, `..` or
/// [reserved](is_reserved), no NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(String);

/// Why a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} {reason}")]
pub struct InvalidPath {
    /// At most 200 characters of what was given.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TreePath {
    /// Checks a path.
    pub fn new(path: impl Into<String>) -> Result<Self, InvalidPath> {
        let path = path.into();
        match problem(&path) {
            None => Ok(Self(path)),
            Some(reason) => Err(InvalidPath { path: path.chars().take(200).collect(), reason }),
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds this path; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// How many components the path has, at least 1.
    pub fn depth(&self) -> usize {
        self.0.bytes().filter(|b| *b == b'/').count() + 1
    }
}

fn problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("is empty");
    }
    if path.len() > MAX_PATH {
        return Some("is longer than 4095 bytes");
    }
    if path.contains('\0') {
        return Some("contains NUL");
    }
    let mut depth = 0;
    for component in path.split('/') {
        depth += 1;
        match component {
            "" => return Some("is absolute or has an empty component"),
            "." | ".." => return Some("has a component '.' or '..'"),
            c if c.len() > MAX_COMPONENT => return Some("has a component longer than 255 bytes"),
            c if is_reserved(c) => return Some("is the agent's own and never content"),
            _ => {}
        }
    }
    (depth > MAX_DEPTH).then_some("is deeper than 128 directories")
}

/// Whether a component belongs to the agent: its configuration or its state. Such a path is not pushed, not
/// written by a pull, and refused in manifests: it would carry a token or plant hooks. Without regard to case,
/// since some file systems have none.
pub fn is_reserved(component: &str) -> bool {
    component.eq_ignore_ascii_case(CONFIG_FILE)
        || (component.starts_with('.')
            && component.len() >= STATE_SUFFIX.len()
            && component.as_bytes()[component.len() - STATE_SUFFIX.len()..]
                .eq_ignore_ascii_case(STATE_SUFFIX.as_bytes()))
}

/// What a file system without case or Unicode form would take the name for. Two siblings of one key collide there.
pub fn collision_key(component: &str) -> String {
    component.nfd().flat_map(char::to_lowercase).nfc().collect()
}

/// The order of a manifest: depth first, siblings by their bytes. A directory comes right before what it holds.
pub fn compare(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    let (a, b) = (a.as_bytes(), b.as_bytes());
    match a.iter().zip(b).position(|(x, y)| x != y) {
        Some(at) => rank(a[at]).cmp(&rank(b[at])),
        None => a.len().cmp(&b.len()),
    }
}

/// Whether `path` lies below the directory `dir`.
pub fn is_below(path: &str, dir: &str) -> bool {
    path.len() > dir.len() && path.as_bytes()[dir.len()] == b'/' && path.starts_with(dir)
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<String> for TreePath {
    type Error = InvalidPath;
    fn try_from(path: String) -> Result<Self, InvalidPath> {
        Self::new(path)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> String {
        path.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(256);
        let deep = "d/".repeat(128) + "f";
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a/./b",
            "..",
            "../a",
            "a/../b",
            "a\0b",
            long.as_str(),
            deep.as_str(),
            ".kkartifact.yml",
            "a/.KKartifact.YML",
            ".app.kkartifact/journal",
            ".kkartifact/x",
        ] {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ordinary_paths_are_kept_as_they_are() {
        for good in [
            "a",
            "a/b.c",
            "...",
            "..a",
            "a b",
            "ünï/✓",
            "back\\slash",
            "new\nline",
            "%2e%2e",
            "kkartifact.yml",
        ] {
            assert_eq!(TreePath::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_directory_comes_right_before_what_it_holds() {
        let mut paths = ["a.txt", "a/b", "a", "a/b/c", "a-b", "a/b.c", "b"];
        paths.sort_by(|x, y| compare(x, y));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b.c", "a-b", "a.txt", "b"]);
    }

    #[test]
    fn names_that_differ_by_case_or_unicode_form_have_one_key() {
        assert_eq!(collision_key("ReadMe"), collision_key("README"));
        assert_eq!(collision_key("caf\u{e9}"), collision_key("cafe\u{301}"));
        assert_ne!(collision_key("a"), collision_key("b"));
    }

    #[test]
    fn parts_of_a_path() {
        let path = TreePath::new("a/b/c").unwrap();
        assert_eq!((path.parent(), path.name(), path.depth()), (Some("a/b"), "c", 3));
        assert!(is_below("a/b/c", "a/b") && !is_below("a/bc", "a/b") && !is_below("a/b", "a/b"));
    }
}
