//! What is neither pushed nor touched: the same rules in push, pull, diff and adopt, written as in a
//! `.gitignore` file.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{AgentError, Result};

/// The rules.
#[derive(Debug, Clone)]
pub struct IgnoreRules(Gitignore);

impl IgnoreRules {
    /// Compiles patterns; an error names the one that is wrong.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let added = builder.add_line(None, pattern);
            added.map_err(|error| AgentError::usage(format!("ignore pattern {pattern:?}: {error}")))?;
        }
        let rules =
            builder.build().map_err(|error| AgentError::usage(format!("ignore patterns: {error}")))?;
        Ok(Self(rules))
    }

    /// Whether a path is ignored by itself. Walkers don't enter ignored directories, so what lies below needs no
    /// rule of its own.
    pub fn matches(&self, path: &str, is_directory: bool) -> bool {
        self.0.matched(path, is_directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&str]) -> IgnoreRules {
        IgnoreRules::new(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn globs_prefixes_directories_and_files() {
        let rules = rules(&["logs/", "tmp/", "*.log", "/config/local.yml", "cache-*", "!keep.log"]);
        for (path, is_directory, ignored) in [
            ("logs", true, true),
            ("deep/logs", true, true),
            ("logs", false, false),
            ("a.log", false, true),
            ("deep/b.log", false, true),
            ("keep.log", false, false),
            ("config/local.yml", false, true),
            ("x/config/local.yml", false, false),
            ("cache-17", true, true),
            ("readme", false, false),
        ] {
            assert_eq!(rules.matches(path, is_directory), ignored, "{path}");
        }
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        let error = IgnoreRules::new(&["fine".into(), "[z-a]".into()]).unwrap_err();
        assert!(error.message.contains("[z-a]"), "{}", error.message);
    }
}
