//! The command line of the agent.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use kkartifact_agent::commands::{adopt, diff, doctor, init, login, status, verify, versions};
use kkartifact_agent::config::{Config, Overrides, Place};
use kkartifact_agent::output::{Format, note};
use kkartifact_agent::progress::Progress;
use kkartifact_agent::pull::{self, PullOptions, RollbackOptions};
use kkartifact_agent::push::{self, PushOptions};
use kkartifact_agent::{Agent, AgentError, Kind, Result};
use kkartifact_model::{AppName, ChannelName, ProjectName, VersionName, VersionRef};
use serde::Serialize;

/// Push a build once, pull it on many hosts
#[derive(Debug, Parser)]
#[command(name = "kkartifact-agent", version, after_long_help = exit_codes())]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file [default: .kkartifact.yml in --path, else here]
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Address of the server
    #[arg(long, global = true, env = "KKARTIFACT_SERVER_URL")]
    server_url: Option<String>,
    /// API token; better in the environment or kept by `login` than on the command line
    #[arg(long, global = true, env = "KKARTIFACT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Project
    #[arg(long, global = true, env = "KKARTIFACT_PROJECT")]
    project: Option<ProjectName>,
    /// App
    #[arg(long, global = true, env = "KKARTIFACT_APP")]
    app: Option<AppName>,
    /// Streams at the same time
    #[arg(long, global = true, env = "KKARTIFACT_CONCURRENCY")]
    concurrency: Option<usize>,
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but errors
    #[arg(long, short, global = true, conflicts_with = "json")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Deploy(Deploy),
    #[command(flatten)]
    Inspect(Inspect),
    #[command(flatten)]
    Manage(Manage),
    #[command(flatten)]
    SetUp(SetUp),
}

/// What changes a directory or adds a version.
#[derive(Debug, Subcommand)]
enum Deploy {
    /// Push a build as a new version
    Push {
        /// The build
        #[arg(long, default_value = ".")]
        path: PathBuf,
        /// Name of the version [default: the git commit of a clean work tree, else the content's digest]
        #[arg(long)]
        version: Option<VersionName>,
        /// Push although the source is empty or has shrunk a lot
        #[arg(long)]
        force: bool,
        /// Only say what would be pushed
        #[arg(long)]
        dry_run: bool,
    },
    /// Apply a version to a directory
    Pull {
        /// The directory
        #[arg(long, default_value = ".")]
        path: PathBuf,
        /// A version, @channel or @latest
        #[arg(long, default_value = "@stable")]
        version: VersionRef,
        /// Pull although many files would be deleted
        #[arg(long)]
        force: bool,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Go back to an earlier version: a directory, or with --channel a channel
    Rollback {
        /// The directory
        #[arg(long, default_value = ".")]
        path: PathBuf,
        /// The version to go back to [default: the one before]
        #[arg(long)]
        to: Option<VersionName>,
        /// Move this channel back instead
        #[arg(long)]
        channel: Option<ChannelName>,
        /// Only show where a rollback would go and what it would change
        #[arg(long, conflicts_with = "channel")]
        dry_run: bool,
    },
    /// Take over a directory that something else deployed
    Adopt {
        /// The directory
        #[arg(long, default_value = ".")]
        path: PathBuf,
    },
}

/// What only looks.
#[derive(Debug, Subcommand)]
enum Inspect {
    /// Show what differs between two versions, or with --path between a directory and a version
    Diff {
        /// The older version [with --path: the version to compare with]
        from: VersionRef,
        /// The newer version
        #[arg(required_unless_present = "path")]
        to: Option<VersionRef>,
        /// A deployed directory
        #[arg(long, conflicts_with = "to")]
        path: Option<PathBuf>,
        /// How many differences to show
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// Read every file of a directory and compare it with the version in place
    Verify {
        /// The directory
        #[arg(long, default_value = ".")]
        path: PathBuf,
    },
    /// Show what is in place, and where the channels point
    Status {
        /// The directory
        #[arg(long, default_value = ".")]
        path: PathBuf,
    },
    /// List the newest versions
    Versions {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

/// What changes something on the server.
#[derive(Debug, Subcommand)]
enum Manage {
    /// Point a channel to a version
    Promote {
        /// The version
        version: VersionName,
        /// The channel
        #[arg(long, default_value = "stable")]
        channel: ChannelName,
    },
    /// Delete the oldest versions of the app on the server
    Prune {
        /// How many of the newest to keep [default: `retain_versions` of the configuration]
        #[arg(long)]
        keep: Option<u32>,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
}

/// What prepares this host.
#[derive(Debug, Subcommand)]
enum SetUp {
    /// Check a token and keep it for this user
    Login {
        /// Spend the one-time secret of a new server
        #[arg(long, conflicts_with = "token")]
        bootstrap: Option<String>,
    },
    /// Write a first .kkartifact.yml
    Init {
        /// Where
        #[arg(long, default_value = ".")]
        path: PathBuf,
    },
    /// Check configuration, server, credential and target
    Doctor {
        /// The directory that is pushed from or pulled to
        #[arg(long)]
        path: Option<PathBuf>,
    },
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn exit_codes() -> String {
    let lines: Vec<_> = Kind::ALL.iter().map(|(kind, what)| format!("  {:2}  {what}", *kind as u8)).collect();
    format!("Exit codes:\n   0  done\n{}", lines.join("\n"))
}

/// How many changes a dry run shows.
const SHOW: usize = 100;

/// Runs a command.
pub(crate) fn run(options: Options) -> ExitCode {
    let json = options.common.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(execute(options)),
        Err(error) => Err(AgentError::io("starting")(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error, json);
            ExitCode::from(error.kind as u8)
        }
    }
}

fn complain(error: &AgentError, json: bool) {
    if json {
        let body = serde_json::json!({ "error": {
            "exit_code": error.kind as u8, "code": error.code, "message": error.message, "hint": error.hint,
        }});
        note(&body.to_string());
        return;
    }
    note(&format!("error: {error}"));
    if let Some(hint) = &error.hint {
        note(&format!("  try: {hint}"));
    }
}

/// The command's settings, and how it speaks.
struct Session {
    flags: Overrides,
    format: Format,
    progress: Progress,
}

impl Session {
    fn new(common: Common) -> Self {
        let (format, progress) = match (common.json, common.quiet) {
            (true, quiet) => (Format::Json, if quiet { Progress::Quiet } else { Progress::Notes }),
            (false, true) => (Format::Quiet, Progress::Quiet),
            (false, false) => (Format::Text, Progress::detect()),
        };
        let flags = Overrides {
            config: common.config,
            server_url: common.server_url,
            token: common.token,
            project: common.project,
            app: common.app,
            concurrency: common.concurrency,
        };
        Self { flags, format, progress }
    }

    /// The agent for a command that has no directory.
    fn agent(&self) -> Result<Agent> {
        Agent::new(Config::load(&self.flags, Place::Nowhere)?, self.progress)
    }

    /// The agent for a directory that must have a configuration.
    fn agent_for(&self, path: &Path) -> Result<Agent> {
        Agent::new(Config::load(&self.flags, Place::Required(path))?, self.progress)
    }

    /// The agent for a deployed directory, where a configuration is welcome but not required.
    fn agent_at(&self, path: &Path) -> Result<Agent> {
        Agent::new(Config::load(&self.flags, Place::Optional(path))?, self.progress)
    }

    fn show<T: Serialize + Display>(&self, result: &T) {
        self.format.result(result);
    }
}

async fn execute(options: Options) -> Result<()> {
    let session = Session::new(options.common);
    match options.command {
        Command::Deploy(command) => deploy(&session, command).await,
        Command::Inspect(command) => inspect(&session, command).await,
        Command::Manage(command) => manage(&session, command).await,
        Command::SetUp(command) => set_up(&session, command).await,
    }
}

async fn deploy(session: &Session, command: Deploy) -> Result<()> {
    match command {
        Deploy::Push { path, version, force, dry_run } => {
            let agent = session.agent_for(&path)?;
            session.show(&push::push(&agent, &PushOptions { path, version, force, dry_run }).await?);
        }
        Deploy::Pull { path, version, force, dry_run } => {
            let agent = session.agent_for(&path)?;
            let options = PullOptions { path, version, force, dry_run, show: SHOW };
            session.show(&pull::pull(&agent, &options).await?);
        }
        Deploy::Rollback { path, to, channel: Some(channel), .. } => {
            let agent = session.agent_at(&path)?;
            session.show(&versions::move_back(&agent, channel, to).await?);
        }
        Deploy::Rollback { path, to, channel: None, dry_run } => {
            let agent = session.agent_at(&path)?;
            let options = RollbackOptions { path, to, dry_run, show: SHOW };
            session.show(&pull::rollback(&agent, &options).await?);
        }
        Deploy::Adopt { path } => {
            let agent = session.agent_for(&path)?;
            session.show(&adopt::adopt(&agent, &path).await?);
        }
    }
    Ok(())
}

async fn inspect(session: &Session, command: Inspect) -> Result<()> {
    match command {
        Inspect::Diff { from, to: Some(to), limit, .. } => {
            session.show(&diff::diff(&session.agent()?, &from, &to, limit).await?);
        }
        Inspect::Diff { from, path, limit, .. } => {
            let path = path.unwrap_or_default();
            let (agent, show) = (session.agent_for(&path)?, limit as usize);
            let options = PullOptions { path, version: from, force: true, dry_run: true, show };
            session.show(&pull::pull(&agent, &options).await?);
        }
        Inspect::Verify { path } => {
            let verified = verify::verify(&session.agent_at(&path)?, &path).await?;
            session.show(&verified);
            if !verified.intact {
                let message = format!("{} is not what was put there", path.display());
                return Err(AgentError::new(Kind::Invalid, message).hint("kkartifact-agent pull"));
            }
        }
        Inspect::Status { path } => session.show(&status::status(&session.agent_at(&path)?, &path).await?),
        Inspect::Versions { limit } => session.show(&versions::versions(&session.agent()?, limit).await?),
    }
    Ok(())
}

async fn manage(session: &Session, command: Manage) -> Result<()> {
    let agent = session.agent()?;
    match command {
        Manage::Promote { version, channel } => {
            session.show(&versions::promote(&agent, version, channel).await?);
        }
        Manage::Prune { keep, dry_run } => session.show(&versions::prune(&agent, keep, dry_run).await?),
    }
    Ok(())
}

async fn set_up(session: &Session, command: SetUp) -> Result<()> {
    let flags = &session.flags;
    match command {
        SetUp::Login { bootstrap } => {
            let url = flags.server_url.as_deref();
            let url = url.ok_or_else(|| AgentError::usage("which server? Use --server-url"))?;
            let credential = match (bootstrap, flags.token.clone()) {
                (Some(secret), _) => login::Credential::Bootstrap(secret),
                (None, Some(token)) => login::Credential::Token(token),
                (None, None) => login::Credential::Ask,
            };
            session.show(&login::login(url, credential).await?);
        }
        SetUp::Init { path } => {
            let server = flags.server_url.as_deref();
            session.show(&init::init(&path, server, flags.project.as_ref(), flags.app.as_ref())?);
        }
        SetUp::Doctor { path } => {
            let diagnosis = doctor::doctor(flags, path.as_deref()).await;
            session.show(&diagnosis);
            if !diagnosis.is_good() {
                return Err(AgentError::new(Kind::Failed, "something needs mending"));
            }
        }
        SetUp::Completions { shell } => {
            let mut command = Options::command();
            clap_complete::generate(shell, &mut command, "kkartifact-agent", &mut std::io::stdout());
        }
    }
    Ok(())
}
