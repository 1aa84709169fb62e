//! The jobs service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    let worker = |resources, shutdown| tokio::spawn(kkartifact_jobs_service::run(resources, shutdown));
    kkartifact_service::process::main(kkartifact_jobs_service::router, Some(worker))
}
