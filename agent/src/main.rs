//! `kkartifact-agent`: pushes builds, and applies versions to directories.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::run(cli::Options::parse())
}
