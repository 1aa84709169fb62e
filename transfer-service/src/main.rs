//! The transfer service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kkartifact_service::process::main(kkartifact_transfer_service::router, None)
}
