//! The command line of the server.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kkartifact::Embedded;
use kkartifact_model::time::Clock;
use kkartifact_service::{ApiError, ApiResult, Config, Resources, Shutdown, process, telemetry};

use crate::admin;

/// Release distribution: push a build once, pull it on many hosts
#[derive(Debug, Parser)]
#[command(name = "kkartifact", version)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file (TOML); `KKARTIFACT_SECTION__KEY` in the environment overrides it
    #[arg(long, global = true, env = "KKARTIFACT_CONFIG")]
    config: Option<PathBuf>,
    /// Where the server keeps everything [default: kkartifact-data]
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve everything in one process
    Serve {
        /// Address and port; port 0 takes a free one [default: 127.0.0.1:8420]
        #[arg(long)]
        listen: Option<SocketAddr>,
        /// Once listening, write address and one-time secret to this file (JSON, readable by its owner only)
        #[arg(long)]
        ready_file: Option<PathBuf>,
    },
    /// What an operator does beside the running server
    #[command(subcommand)]
    Admin(Admin),
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Print a new one-time secret: for the first admin of a cluster, and for whoever lost the last way in
    Bootstrap,
    /// Give a person a temporary password, end their sessions and a lock-out, and print it
    ResetPassword {
        /// Their login
        login: String,
        /// Also make them an admin who is not disabled
        #[arg(long)]
        admin: bool,
    },
    /// End a lock-out after too many failed logins
    Unlock {
        /// Their login
        login: String,
    },
    /// Make a new signing key now
    RotateKeys,
    /// Read what published and archived versions need and compare it with their digests
    Verify,
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Read the whole log and name every row that was changed, removed or inserted
    Verify,
}

/// Runs a command. 0: done; 1: failed, or problems were found.
pub(crate) fn run(options: Options) -> ExitCode {
    let done = config(&options).and_then(|config| {
        telemetry::start_logging(&config.log)?;
        process::run(execute(options.command, config))
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "kkartifact: {}", error.cause.unwrap_or(error.message)));
            ExitCode::FAILURE
        }
    }
}

fn config(options: &Options) -> ApiResult<Config> {
    let mut config = Config::load(options.common.config.as_deref()).map_err(ApiError::internal)?;
    if let Some(path) = &options.common.data_dir {
        config.server.data_dir.clone_from(path);
    }
    if let Command::Serve { listen: Some(listen), .. } = &options.command {
        config.server.listen = *listen;
    }
    Ok(config)
}

async fn execute(command: Command, config: Config) -> ApiResult<ExitCode> {
    match command {
        Command::Serve { ready_file, .. } => serve(config, ready_file.as_deref()).await,
        Command::Admin(command) => admin::run(command, &Resources::open(config, Clock::System).await?).await,
        Command::Audit(Audit::Verify) => {
            admin::verify_audit(&Resources::open(config, Clock::System).await?).await
        }
    }
}

async fn serve(config: Config, ready_file: Option<&Path>) -> ApiResult<ExitCode> {
    let shutdown = Shutdown::default();
    shutdown.on_signals().map_err(ApiError::internal)?;
    let data_dir = config.server.data_dir.clone();
    let server = Embedded::start(config, Clock::System, shutdown).await?;
    let address = server.address;
    say(&format!("kkArtifact {} listens on http://{address}", env!("CARGO_PKG_VERSION")));
    say(&format!("  data    {}", data_dir.display()));
    if let Some(secret) = &server.bootstrap_secret {
        say("  first   nobody has signed in yet; the first admin does it with this one-time secret:");
        say(&format!("          kkartifact-agent login --server-url http://{address} --bootstrap {secret}"));
    }
    if let Some(path) = ready_file {
        write_ready(path, &server)?;
    }
    server.wait().await?;
    Ok(ExitCode::SUCCESS)
}

fn write_ready(path: &Path, server: &Embedded) -> ApiResult<()> {
    let ready = serde_json::json!({
        "url": format!("http://{}", server.address), "bootstrap_secret": server.bootstrap_secret,
    });
    let failed = |error: std::io::Error| ApiError::internal(format!("{}: {error}", path.display()));
    // Whole or not there: whoever waits for it reads it at once.
    let temporary = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(ready.to_string().as_bytes()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

pub(crate) fn say(line: &str) {
    // Nobody reads any more: not a reason to stop.
    drop(writeln!(std::io::stdout(), "{line}"));
}
