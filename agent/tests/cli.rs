//! The command line without a server: what it refuses, how it says so, and with which exit code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn agent(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kkartifact-agent"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KKARTIFACT_") {
            command.env_remove(name);
        }
    }
    command.current_dir(home).env("HOME", home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
    command.args(args).output().unwrap()
}

#[track_caller]
fn refused(done: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} not in {said}");
    }
    assert!(done.stdout.is_empty(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// What is in a directory, but for the agent's own memory.
fn made(home: &Path) -> Vec<String> {
    let names = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".config" && name != ".cache").collect()
}

#[test]
fn a_directory_without_a_configuration_is_not_touched() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("build")).unwrap();
    for verb in ["push", "pull"] {
        let done = agent(home.path(), &[verb, "--path", "build"]);
        refused(&done, 2, &["no .kkartifact.yml in build", "try: kkartifact-agent init --path build"]);
    }
    assert_eq!(made(home.path()), ["build"]);
}

#[test]
fn a_malformed_configuration_is_told_with_file_line_and_key() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".kkartifact.yml");
    for (text, parts) in [
        ("server_url: http://x\nproject: a/b\n", [".kkartifact.yml", "line 2", "'project'"]),
        ("server_url: http://x\n\nchunk_size: 4 parsecs\n", [".kkartifact.yml", "line 3", "'chunk_size'"]),
        ("token: x\ntokn: y\n", [".kkartifact.yml", "line 2", "tokn"]),
    ] {
        fs::write(&file, text).unwrap();
        // Also where a configuration is not required: one that is there must be right.
        for command in ["push", "pull", "rollback", "status", "verify"] {
            refused(&agent(home.path(), &[command]), 2, &parts);
        }
    }
    fs::write(&file, "concurrency: 8\n").unwrap();
    refused(&agent(home.path(), &["push"]), 2, &["server_url is not set", "kkartifact-agent login"]);
}

#[test]
fn a_kept_token_goes_to_its_own_server_only() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join(".config/kkartifact");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("agent.yml"), "server_url: https://ours.example.com/\ntoken: secret\n").unwrap();
    // A file of somebody else's repository names another server.
    fs::write(home.path().join(".kkartifact.yml"), "server_url: http://127.0.0.1:1\n").unwrap();
    for command in ["push", "status", "versions"] {
        refused(&agent(home.path(), &[command]), 2, &["token is not set"]);
    }
}

#[test]
fn bad_names_are_refused_before_anything_else() {
    let home = tempfile::tempdir().unwrap();
    let long = "x".repeat(200);
    for bad in ["a/b", "..", "", ".hidden", "ü", "a b", &long] {
        for flag in ["--version", "--project", "--app"] {
            let done = agent(home.path(), &["push", flag, bad]);
            assert_eq!(done.status.code(), Some(2), "{flag} {bad:?}");
        }
    }
}

#[test]
fn looking_at_what_is_not_there_makes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let access = ["--server-url", "http://127.0.0.1:1", "--token", "x", "--project", "p", "--app", "a"];
    let run = |args: &[&str]| agent(home.path(), &[args, &access].concat());
    let status = run(&["status", "--path", "no/such/place", "--json"]);
    assert!(status.status.success());
    assert!(String::from_utf8_lossy(&status.stdout).contains("\"deployed\":false"));
    refused(&run(&["verify", "--path", "no/such/place"]), 4, &["was not deployed"]);
    refused(&run(&["rollback", "--path", "no/such/place"]), 5, &["no earlier version"]);
    assert!(made(home.path()).is_empty());
}

#[test]
fn errors_are_json_where_results_are() {
    let home = tempfile::tempdir().unwrap();
    let done = agent(home.path(), &["push", "--json"]);
    refused(&done, 2, &["\"exit_code\":2", "\"hint\":\"kkartifact-agent init"]);
}

#[test]
fn init_writes_a_file_that_reads_and_completions_are_printed() {
    let home = tempfile::tempdir().unwrap();
    let done = agent(home.path(), &["init", "--project", "shop", "--app", "1.0"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // It reads: what is missing is the server.
    refused(&agent(home.path(), &["push"]), 2, &["server_url is not set"]);
    refused(&agent(home.path(), &["init"]), 5, &[".kkartifact.yml exists"]);
    for shell in ["bash", "zsh", "fish"] {
        let done = agent(home.path(), &["completions", shell]);
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("rollback"));
    }
}
