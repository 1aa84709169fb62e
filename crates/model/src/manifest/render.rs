//! `meta.yaml` and JSON: the manifest as people and other programs read it, one entry at a time.
//!
//! Entries without `type` are regular files, so a reader that knows files only sees what it expects.

use super::entry::{Entry, Node};
use crate::time::format_mtime;

/// One entry of `files:` in `meta.yaml`, with its line ends.
pub fn yaml_entry(entry: &Entry) -> String {
    let path = scalar(entry.path.as_str());
    match &entry.node {
        Node::File(file) => {
            let mtime = file.mtime.map(|t| format!("    mtime: {}\n", format_mtime(t))).unwrap_or_default();
            format!(
                "  - path: {path}\n    sha256: \"{}\"\n    size: {}\n    mode: \"{:04o}\"\n{mtime}",
                file.sha256,
                file.size,
                file.mode.bits()
            )
        }
        Node::Directory { mode } => {
            format!("  - path: {path}\n    type: directory\n    mode: \"{:04o}\"\n", mode.bits())
        }
        Node::Symlink { target } => {
            format!("  - path: {path}\n    type: symlink\n    target: {}\n", scalar(target))
        }
    }
}

/// One element of `"files"` in JSON, without a separator.
pub fn json_entry(entry: &Entry) -> String {
    let value = match &entry.node {
        Node::File(file) => serde_json::json!({
            "path": entry.path, "sha256": file.sha256, "size": file.size,
            "mode": format!("{:04o}", file.mode.bits()), "mtime": file.mtime.map(format_mtime),
        }),
        Node::Directory { mode } => serde_json::json!({
            "path": entry.path, "type": "directory", "mode": format!("{:04o}", mode.bits()),
        }),
        Node::Symlink { target } => {
            serde_json::json!({ "path": entry.path, "type": "symlink", "target": target })
        }
    };
    value.to_string()
}

/// A YAML scalar: plain where nothing could be mistaken, else in JSON's quotes, which YAML 1.2 reads alike.
pub fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-_".contains(&b))
        && text.contains(['/', '.', '-', '_']);
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_that_could_be_mistaken_are_quoted() {
        assert_eq!(scalar("bin/app"), "bin/app");
        for text in [
            "", "yes", "null", "true", "1.0", "0x1f", "a: b", "a #b", "- x", "é", "a\nb", "\"q\"", "~",
            ".inf", "1e-3",
        ] {
            assert!(scalar(text).starts_with('"'), "{text}");
        }
    }
}
