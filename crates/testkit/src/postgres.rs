//! A PostgreSQL of a test's own: for tests that stop it.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::process::wait_for;

/// A PostgreSQL server on a free port, which it keeps over restarts. What was committed survives its processes, but
/// not the machine's.
pub struct PostgresProcess {
    bin: PathBuf,
    account: Option<[u32; 2]>,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl PostgresProcess {
    /// Starts it, with nothing in it.
    pub fn start() -> Self {
        let (dir, account) = (tempfile::tempdir().unwrap(), account());
        if let Some([user, group]) = account {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = Self { bin: programs(), account, port, dir, child: None };
        let mut initdb = postgres.command("initdb");
        initdb.arg("-D").arg(postgres.data());
        initdb.args(["-U", "kkartifact", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres.restart();
        postgres
    }

    /// `postgres://…` without a database, for [`crate::TestDatabase::on`].
    pub fn url(&self) -> String {
        format!("postgres://kkartifact@127.0.0.1:{}", self.port)
    }

    /// Starts it again after a stop, and waits until it takes connections.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "PostgreSQL still runs");
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut server = self.command("postgres");
        server.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string()).arg("-k").arg(self.dir.path());
        // Nothing has to survive a power cut; that commits survive the processes is what tests are about.
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_connections=100",
            "shared_buffers=32MB",
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=on",
        ] {
            server.args(["-c", setting]);
        }
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = server.spawn().unwrap();
        let port = self.port.to_string();
        wait_for("PostgreSQL to take connections", || {
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "PostgreSQL did not start: {}",
                std::fs::read_to_string(self.log()).unwrap_or_default()
            );
            let asked = self.command("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
            asked.unwrap().success().then_some(())
        });
        self.child = Some(child);
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: it finds out at the next start what was committed.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        end(&mut child);
    }

    /// Stops it for a while: connections stay open, and nobody answers.
    pub fn pause(&self) {
        let server = self.child.as_ref().unwrap();
        // First the one that makes the others. It takes a signal when it is its turn.
        kill_process(Pid::from_child(server), Signal::STOP).unwrap();
        let name = server.id().to_string();
        wait_for("PostgreSQL to stand still", || {
            stat(&name).is_some_and(|(state, _)| state == "T").then_some(())
        });
        signal_children(server, Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let server = self.child.as_ref().unwrap();
        signal_children(server, Signal::CONT);
        kill_process(Pid::from_child(server), Signal::CONT).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A program of the server, run by somebody who may run it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.dir.path());
        if let Some([user, group]) = self.account {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for PostgresProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may stand still: nobody ends then.
            signal_children(&child, Signal::CONT);
            end(&mut child);
        }
    }
}

/// Ends a server and its children.
fn end(server: &mut Child) {
    let pid = Pid::from_child(server);
    for signal in [Signal::QUIT, Signal::CONT] {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
    drop(server.wait());
}

/// Sends a signal to the children of a process.
fn signal_children(process: &Child, signal: Signal) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_child = stat(&name).is_some_and(|(_, parent)| parent == process.id().to_string());
        if let Some(child) = name.parse().ok().and_then(Pid::from_raw).filter(|_| is_child) {
            // It may just have ended.
            let _ = kill_process(child, signal);
        }
    }
}

/// The state of a process and its parent; `None` if it is gone.
fn stat(process: &str) -> Option<(String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the program's name, which stands in parentheses and may have some of its own.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned);
    Some((fields.next()?, fields.next()?))
}

/// User and group that run the server in the place of root, as whom it refuses to run.
fn account() -> Option<[u32; 2]> {
    let id = |which: &str, name: &str| -> Option<u32> {
        let said = Command::new("id").args([which, name]).output().ok()?;
        String::from_utf8(said.stdout).ok()?.trim().parse().ok()
    };
    let of = |name: &str| Some([id("-u", name)?, id("-g", name)?]);
    geteuid().is_root().then(|| of("postgres").or_else(|| of("nobody")).unwrap())
}

/// Where the server's programs are: of several releases beside each other the last one's, else where `pg_config` says.
fn programs() -> PathBuf {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let places = releases.map(|release| release.path().join("bin"));
    places.filter(|bin| bin.join("initdb").is_file()).max().unwrap_or_else(|| {
        let said = Command::new("pg_config").arg("--bindir").output().unwrap_or_else(|error| {
            panic!("PostgreSQL's server programs are missing ({error}); scripts/need.sh test installs them")
        });
        PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())
    })
}
