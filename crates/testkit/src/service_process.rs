//! One service as a process of its own: for tests in which several share a database.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::TestDatabase;
use crate::process::{Programs, wait_for};

/// The service `kkartifact-api-service`, `kkartifact-transfer-service` or `kkartifact-jobs-service` as a process. It is
/// killed when it is dropped.
pub struct ServiceProcess {
    port: u16,
    log: PathBuf,
    child: Child,
}

impl ServiceProcess {
    /// Starts a service on a free port and waits until it answers. Services with the same `dir` share their data,
    /// which lies in `dir/data`.
    pub fn start(programs: &Programs, program: &str, dir: &Path, database: &TestDatabase) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = dir.join(format!("{program}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = programs.command(program);
        assert!(
            Path::new(command.get_program()).is_file(),
            "{program} is missing; 'cargo build --workspace' makes it"
        );
        configure(&mut command, dir, database)
            .env("KKARTIFACT_SERVER__LISTEN", format!("127.0.0.1:{port}"))
            // Who tests what is refused is refused often.
            .env("KKARTIFACT_RATE__GUESSES_PER_MINUTE", "1000000")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let mut service = Self { port, log, child: command.spawn().unwrap() };
        wait_for(program, || {
            let ended = service.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} did not start: {}", service.log());
            answers(port).then_some(())
        });
        service
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it printed and logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The one-time secret for the first admin of the services with this `dir`, as the operator of a cluster gets it.
    pub fn bootstrap_secret(programs: &Programs, dir: &Path, database: &TestDatabase) -> String {
        let mut command = programs.command("kkartifact");
        command.arg("--data-dir").arg(dir.join("data")).args(["admin", "bootstrap"]);
        let done = configure(&mut command, dir, database).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let printed = String::from_utf8(done.stdout).unwrap();
        printed.lines().last().unwrap().trim().to_owned()
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What every program of a cluster is told.
fn configure<'a>(command: &'a mut Command, dir: &Path, database: &TestDatabase) -> &'a mut Command {
    let url = database.url().unwrap_or_else(|| panic!("several processes can't share a SQLite file"));
    command
        .env("KKARTIFACT_SERVER__DATA_DIR", dir.join("data"))
        .env("KKARTIFACT_DATABASE__URL", url)
        .env("KKARTIFACT_AUTH__BCRYPT_COST", "4")
}

/// Whether a server says that it lives.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
