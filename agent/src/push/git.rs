//! What git says of a build's source, if there is a git and a work tree.

use std::path::Path;
use std::process::{Command, Stdio};

use kkartifact_model::api::version::BuildInfo;

/// How a build came to be.
#[derive(Debug, Default)]
pub(super) struct Build {
    /// What goes into the version.
    pub(super) info: BuildInfo,
    /// Whether the work tree has no changes: only then the commit names the content.
    pub(super) clean: bool,
}

/// Asks git. No git, no work tree: nothing is known.
pub(super) fn describe(path: &Path) -> Build {
    let Some(commit) = git(path, &["rev-parse", "HEAD"]) else { return Build::default() };
    let clean =
        git(path, &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| text.is_empty());
    Build { info: BuildInfo { git_commit: Some(commit), ..BuildInfo::default() }, clean }
}

fn git(path: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(path).args(args).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
