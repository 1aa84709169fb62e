//! Names that this host's file system would take for each other: a version that has such is refused before
//! anything is written, since one file would silently replace the other.

use std::collections::HashSet;
use std::fs;

use kkartifact_model::path::{collision_key, is_below};

use super::state::Target;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;

/// How many colliding names are listed.
const SHOWN: usize = 20;

/// Refuses a manifest whose names collide here.
pub(super) fn check_names(target: &Target, manifest: &ManifestFile) -> Result<()> {
    if folds(target, "kkartifact-Probe", "kkartifact-pROBE")? || folds(target, "caf\u{e9}", "cafe\u{301}")? {
        collisions(manifest)
    } else {
        Ok(())
    }
}

/// Whether the file system finds a file by another form of its name.
fn folds(target: &Target, name: &str, other: &str) -> Result<bool> {
    let probe = target.file(name);
    fs::write(&probe, "").map_err(AgentError::io("probing the file system"))?;
    let found = target.file(other).exists();
    fs::remove_file(&probe).map_err(AgentError::io("probing the file system"))?;
    Ok(found)
}

/// An error that lists names of one directory that differ by case or Unicode form only.
pub(super) fn collisions(manifest: &ManifestFile) -> Result<()> {
    // The directories above the current entry, each with the keys of its names so far.
    let mut open: Vec<(String, HashSet<String>)> = vec![(String::new(), HashSet::new())];
    let (mut shown, mut count) = (Vec::new(), 0u64);
    for entry in manifest.entries() {
        let entry = entry?;
        let path = entry.path.as_str();
        while open.len() > 1 && open.last().is_some_and(|(dir, _)| !is_below(path, dir)) {
            open.pop();
        }
        if let Some((_, keys)) = open.last_mut()
            && !keys.insert(collision_key(entry.path.name()))
        {
            count += 1;
            if shown.len() < SHOWN {
                shown.push(path.to_owned());
            }
        }
        if entry.file().is_none() {
            open.push((path.to_owned(), HashSet::new()));
        }
    }
    if count == 0 {
        return Ok(());
    }
    let message = format!(
        "{count} names of this version differ from a sibling only by case or Unicode form, which this file system \
         ignores; nothing was changed:\n  {}",
        shown.join("\n  ")
    );
    Err(AgentError::new(Kind::Invalid, message)
        .hint("rename them in the build, or deploy to another file system"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest_file::ManifestWriter;
    use kkartifact_model::TreePath;
    use kkartifact_model::manifest::{Entry, Mode, Node};

    fn check(paths: &[&str]) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ManifestWriter::create(&dir.path().join("m")).unwrap();
        for path in paths {
            let node = Node::Directory { mode: Mode::EXECUTABLE };
            writer.push(&Entry { path: TreePath::new(*path).unwrap(), node }).unwrap();
        }
        collisions(&writer.finish().unwrap())
    }

    #[test]
    fn names_that_differ_by_case_or_unicode_form_are_listed() {
        assert!(check(&["README", "a", "a/README", "b", "b/README", "b/readme.txt"]).is_ok());
        let error = check(&["README", "a", "a/X", "a/x", "cafe\u{301}", "caf\u{e9}", "readme"]).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
        for path in ["a/x", "caf\u{e9}", "readme"] {
            assert!(error.message.contains(path), "{}", error.message);
        }
        assert!(error.message.starts_with("3 names"), "{}", error.message);
    }
}
