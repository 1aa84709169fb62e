//! Directory trees: making them, and comparing all that a version carries.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

/// Bytes without pattern, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    // SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut out: Vec<u8> =
        std::iter::repeat_with(|| next().to_le_bytes()).take(len.div_ceil(8)).flatten().collect();
    out.truncate(len);
    out
}

/// Writes a file, and the directories above it.
pub fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Sets permission bits.
pub fn chmod(root: &Path, path: &str, mode: u32) {
    fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
}

/// A small build with everything that a version carries: a large file, empty file and directory, modes, links.
pub fn sample(root: &Path) {
    write(root, "README.md", b"hello\n");
    write(root, "bin/app", &noise(1, 300_000));
    write(root, "lib/empty", b"");
    write(root, "lib/deep/er/text.txt", "line\n".repeat(5000).as_bytes());
    write(root, "odd names/ünï cödé ✓", b"utf-8");
    write(root, "odd names/new\nline", b"newline");
    chmod(root, "bin/app", 0o755);
    chmod(root, "lib/deep", 0o750);
    chmod(root, "README.md", 0o600);
    fs::create_dir_all(root.join("var/empty")).unwrap();
    symlink("bin/app", root.join("current")).unwrap();
    symlink("../../bin/app", root.join("lib/deep/up")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
}

/// What is at a path, as far as a version carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Mode, content, modification time in nanoseconds.
    File(u32, Vec<u8>, i128),
    /// Mode.
    Directory(u32),
    /// Where it points.
    Symlink(String),
}

/// Everything below a directory but the agent's own files.
pub fn snapshot(root: &Path) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    add(root, "", &mut found);
    found
}

fn add(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Node>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if kkartifact_model::path::is_reserved(&name) {
            continue;
        }
        let (path, meta) = (format!("{prefix}{name}"), fs::symlink_metadata(entry.path()).unwrap());
        let mode = meta.mode() & 0o7777;
        let node = if meta.is_symlink() {
            Node::Symlink(fs::read_link(entry.path()).unwrap().into_os_string().into_string().unwrap())
        } else if meta.is_dir() {
            add(&entry.path(), &format!("{path}/"), found);
            Node::Directory(mode)
        } else {
            let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
            Node::File(mode, fs::read(entry.path()).unwrap(), mtime)
        };
        found.insert(path, node);
    }
}

/// The same without times: a file whose content has not changed keeps the time that it had.
pub fn content(root: &Path) -> BTreeMap<String, Node> {
    let without_time = |node| match node {
        Node::File(mode, content, _) => Node::File(mode, content, 0),
        other => other,
    };
    snapshot(root).into_iter().map(|(path, node)| (path, without_time(node))).collect()
}

/// Asserts that two trees are the same in all that a version carries.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    compare(&snapshot(a), &snapshot(b));
}

/// Asserts that two trees are the same but for times.
#[track_caller]
pub fn assert_same_content(a: &Path, b: &Path) {
    compare(&content(a), &content(b));
}

#[track_caller]
fn compare(a: &BTreeMap<String, Node>, b: &BTreeMap<String, Node>) {
    for (path, node) in a {
        assert!(
            b.get(path) == Some(node),
            "{path}: {} in one, {} in the other",
            brief(Some(node)),
            brief(b.get(path))
        );
    }
    let surplus: Vec<_> = b.keys().filter(|path| !a.contains_key(*path)).collect();
    assert!(surplus.is_empty(), "surplus: {surplus:?}");
}

fn brief(node: Option<&Node>) -> String {
    match node {
        Some(Node::File(mode, content, mtime)) => {
            format!("file {mode:o} of {} bytes at {mtime}", content.len())
        }
        other => format!("{other:?}"),
    }
}
