//! The shipped programs as processes of their own: for tests that kill them.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use kkartifact_model::failpoint;
use kkartifact_store::DatabaseConfig;
use serde_json::Value;

use crate::TestDatabase;

/// Where the programs are that were built with the tests.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: PathBuf,
    wrapper: Vec<String>,
}

impl Programs {
    /// The programs beside this one: pass `env!("CARGO_BIN_EXE_kkartifact")`.
    pub fn beside(server: &str) -> Self {
        let dir = Path::new(server).parent().unwrap().to_owned();
        let agent = dir.join("kkartifact-agent");
        assert!(agent.is_file(), "{} is missing; 'cargo build --workspace' makes it", agent.display());
        Self { dir, wrapper: Vec::new() }
    }

    /// The same programs, run by another one that makes their world, such as [`with_hosts`].
    pub fn run_by(self, wrapper: Vec<String>) -> Self {
        Self { wrapper, ..self }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let program = self.dir.join(program);
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((wrapper, args)) => {
                let mut command = Command::new(wrapper);
                command.args(args).arg(program);
                command
            }
        };
        // Nothing of whoever runs the tests may leak in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KKARTIFACT_") {
                command.env_remove(name);
            }
        }
        command
    }
}

/// A server as a process.
pub struct ServerProcess {
    programs: Programs,
    dir: PathBuf,
    port: u16,
    database_url: Option<String>,
    settings: Vec<(String, String)>,
    child: Child,
    _database: Option<TestDatabase>,
}

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);

impl ServerProcess {
    /// Starts a server on a free port, which it keeps over restarts. Also the first admin's token.
    pub fn start(programs: &Programs, dir: &Path, database: TestDatabase) -> (Self, String) {
        Self::start_with(programs, dir, database, &[])
    }

    /// The same with settings, such as `("KKARTIFACT_GC__DELAY_MINUTES", "0")`, which it keeps over restarts as well.
    pub fn start_with(
        programs: &Programs,
        dir: &Path,
        database: TestDatabase,
        settings: &[(&str, &str)],
    ) -> (Self, String) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let database_url = database.url();
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let child = spawn(programs, dir, port, database_url.as_deref(), &settings, None);
        let mut server = Self {
            programs: programs.clone(),
            dir: dir.to_owned(),
            port,
            database_url,
            settings,
            child,
            _database: Some(database),
        };
        let secret = server.ready()["bootstrap_secret"].as_str().unwrap().to_owned();
        let agent = AgentProcess::new(programs, &dir.join("home"), &server.url(), "");
        let done = agent.run(&["login", "--server-url", &server.url(), "--bootstrap", &secret], None);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let config = std::fs::read_to_string(dir.join("home/.config/kkartifact/agent.yml")).unwrap();
        let token = config
            .lines()
            .find_map(|line| line.strip_prefix("token: "))
            .unwrap()
            .trim_matches('"')
            .to_owned();
        (server, token)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts it again on the same data and port, perhaps with a place where it dies.
    pub fn restart(&mut self, failpoint: Option<&str>) {
        assert!(self.exit_status().is_some(), "the server still runs");
        let (database, settings) = (self.database_url.as_deref(), &self.settings);
        self.child = spawn(&self.programs, &self.dir, self.port, database, settings, failpoint);
        self.ready();
    }

    /// Waits until it listens; what it wrote then.
    fn ready(&mut self) -> Value {
        let file = self.dir.join("ready");
        let ready = wait_for("the server to listen", || {
            assert!(self.child.try_wait().unwrap().is_none(), "the server did not start: {}", self.log());
            std::fs::read(&file).ok()
        });
        std::fs::remove_file(file).unwrap();
        serde_json::from_slice(&ready).unwrap()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has killed itself at its failpoint.
    pub fn wait_until_killed(&mut self) {
        let status = wait_for("the server to die", || self.exit_status());
        assert_eq!(status.signal(), Some(9), "{status}: {}", self.log());
    }

    /// `kill -9`
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        self.wait_until_stopped();
    }

    /// Asks it to stop (SIGTERM).
    pub fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until it has stopped as it was asked to.
    pub fn wait_until_stopped(&mut self) {
        let status = wait_for("the server to stop", || self.exit_status());
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Runs `kkartifact` on its data.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.programs.command("kkartifact");
        command.arg("--data-dir").arg(self.dir.join("data")).args(args).envs(self.settings.iter().cloned());
        if let Some(url) = &self.database_url {
            command.env("KKARTIFACT_DATABASE__URL", url);
        }
        command.output().unwrap()
    }

    /// Runs `kkartifact admin verify` on its data; panics with what it found.
    pub fn verify(&self) {
        let done = self.run(&["admin", "verify"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    }

    /// Runs statements on its database, behind its back.
    pub async fn execute(&self, sql: &str) {
        let config = match &self.database_url {
            Some(url) => DatabaseConfig::Postgres { url: url.clone(), max_connections: 1 },
            None => DatabaseConfig::Sqlite { path: self.dir.join("data/kkartifact.db") },
        };
        crate::database::execute(&config, sql).await;
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(
    programs: &Programs,
    dir: &Path,
    port: u16,
    database: Option<&str>,
    settings: &[(String, String)],
    failpoint: Option<&str>,
) -> Child {
    std::fs::create_dir_all(dir).unwrap();
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = programs.command("kkartifact");
    command
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--ready-file"])
        .arg(dir.join("ready"))
        .env("KKARTIFACT_AUTH__BCRYPT_COST", "4")
        .envs(settings.iter().cloned())
        .stdout(Stdio::null())
        .stderr(log);
    if let Some(url) = database {
        command.env("KKARTIFACT_DATABASE__URL", url);
    }
    if let Some(place) = failpoint {
        command.env(failpoint::VARIABLE, place);
    }
    command.spawn().unwrap()
}

pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        #[expect(clippy::disallowed_methods, reason = "another process can only be polled")]
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The agent's program with its settings.
#[derive(Debug, Clone)]
pub struct AgentProcess {
    programs: Programs,
    home: PathBuf,
    url: String,
    token: String,
    app: [String; 2],
}

impl AgentProcess {
    /// An agent that knows server and token, and keeps its memory in `home`.
    pub fn new(programs: &Programs, home: &Path, url: &str, token: &str) -> Self {
        std::fs::create_dir_all(home).unwrap();
        std::fs::write(home.join("agent.yml"), "concurrency: 4\n").unwrap();
        Self {
            programs: programs.clone(),
            home: home.to_owned(),
            url: url.to_owned(),
            token: token.to_owned(),
            app: ["shop".into(), "web".into()],
        }
    }

    /// The same agent for another app than shop/web.
    pub fn with_app(mut self, project: &str, app: &str) -> Self {
        self.app = [project.to_owned(), app.to_owned()];
        self
    }

    fn command(&self, args: &[&str], failpoint: Option<&str>) -> Command {
        let mut command = self.programs.command("kkartifact-agent");
        command.args(args).env("HOME", &self.home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
        if !self.token.is_empty() {
            let config = self.home.join("agent.yml");
            command.args(["--server-url", &self.url, "--token", &self.token]).arg("--config").arg(config);
            let [project, app] = &self.app;
            command.args(["--project", project, "--app", app]);
        }
        if let Some(place) = failpoint {
            command.env(failpoint::VARIABLE, place);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str], failpoint: Option<&str>) -> Output {
        self.command(args, failpoint).output().unwrap()
    }

    /// Runs a command that must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args, None);
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{args:?}: {}\n{out}\n{err}", done.status);
        out.into_owned()
    }

    /// Starts a command.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args, None).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs a bash script that calls `agent` and finds `directory` in `$W`, perhaps in another world: `wrapper` is
    /// what it is run by, such as `unshare --mount`. Panics with what it printed, if it fails.
    pub fn script(&self, wrapper: &[&str], directory: &Path, text: &str) -> String {
        let text =
            format!("set -euo pipefail\nagent() {{ \"$AGENT\" -q --config \"$CONFIG\" \"$@\"; }}\n{text}");
        let words: Vec<_> = wrapper.iter().copied().chain(["bash", "-c", &text]).collect();
        let done = Command::new(words[0])
            .args(&words[1..])
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("KKARTIFACT_SERVER_URL", &self.url)
            .env("KKARTIFACT_TOKEN", &self.token)
            .envs(["KKARTIFACT_PROJECT", "KKARTIFACT_APP"].iter().zip(&self.app))
            .env("W", directory)
            .env("AGENT", self.programs.dir.join("kkartifact-agent"))
            .env("CONFIG", self.home.join("agent.yml"))
            .env("SERVER", self.programs.dir.join("kkartifact"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{}\n{out}\n{err}", done.status);
        out.into_owned()
    }
}

/// What runs a script where it may mount things that nobody else sees.
pub fn with_mounts() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        &["unshare", "--mount"]
    } else {
        &["unshare", "--user", "--map-root-user", "--mount"]
    }
}

/// What runs a program in a world where names are looked up in this file, which may change meanwhile if it stays the
/// same file. Panics where that is not permitted.
pub fn with_hosts(file: &Path) -> Vec<String> {
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let words = with_mounts().iter().copied().chain(["sh", "-c", script, file.to_str().unwrap()]);
    let wrapper: Vec<_> = words.map(str::to_owned).collect();
    let tried = Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").output();
    let refused = match &tried {
        Ok(done) if done.status.success() => return wrapper,
        Ok(done) => String::from_utf8_lossy(&done.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let needed = with_mounts().join(" ");
    panic!("this test mounts a hosts file of its own, for which '{needed}' has to be permitted: {refused}")
}

/// What runs a script without the rights of root, on files that are the user's own.
pub fn without_privileges() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    } else {
        &["env"]
    }
}
