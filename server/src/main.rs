//! `kkartifact`: the server, and what its operator does on its machine.

mod admin;
mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::run(cli::Options::parse())
}
