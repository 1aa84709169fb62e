//! The api service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kkartifact_service::process::main(kkartifact_api_service::router, None)
}
