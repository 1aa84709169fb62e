//! The server and the jobs-service as processes with a configuration of their own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, PAUSE};

/// What a process is told: a variable of its environment.
pub(crate) type Variable = (&'static str, String);

/// A program that may be killed, and keeps its port over restarts.
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<String>,
    environment: Vec<Variable>,
    port: u16,
    log: PathBuf,
    http: reqwest::Client,
    child: Option<Child>,
}

impl Program {
    /// Starts a program that was built with the tests, on a free port. Its log lies in `dir`.
    pub(crate) async fn start(name: &str, args: &[&str], dir: &Path, environment: &[Variable]) -> Self {
        let path = Path::new(env!("CARGO_BIN_EXE_kkartifact")).with_file_name(name);
        assert!(path.is_file(), "{} is missing; 'cargo build --workspace' makes it", path.display());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut program = Self {
            path,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment: environment.to_vec(),
            port,
            log: dir.join(format!("{name}.log")),
            http: reqwest::Client::new(),
            child: None,
        };
        program.restart().await;
        program
    }

    /// Starts it again after it was killed, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.path);
        // Nothing of whoever runs the tests may leak in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KKARTIFACT_") {
                command.env_remove(name);
            }
        }
        command
            .args(&self.args)
            .envs(self.environment.iter().cloned())
            .env("KKARTIFACT_SERVER__LISTEN", format!("127.0.0.1:{}", self.port))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
        let (health, started) = (format!("{}/health/live", self.url()), Instant::now());
        while !self.http.get(&health).send().await.is_ok_and(|answer| answer.status().is_success()) {
            let runs = self.child.as_mut().unwrap().try_wait().unwrap().is_none();
            assert!(runs && started.elapsed() < PATIENCE, "it does not start: {}", self.log());
            sleep(PAUSE).await;
        }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it for a while: its connections stay open, and nobody answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// How many deliveries it has in hand, as its metrics say: those that have begun and not ended.
    pub(crate) async fn in_hand(&self) -> i64 {
        let answer = self.http.get(format!("{}/metrics", self.url())).send().await.unwrap();
        let metrics = answer.text().await.unwrap();
        let count = |name: &str| -> i64 {
            let start = format!("{name}{{kind=\"deliver_webhook\"}} ");
            let counted = metrics.lines().find_map(|line| line.strip_prefix(&start));
            counted.map_or(0, |count| count.parse().unwrap())
        };
        count("kkartifact_job_wait_seconds_count") - count("kkartifact_job_seconds_count")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
