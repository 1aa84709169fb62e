"""A client and a server host on one machine: two network namespaces joined by a veth pair, whose counters tell
what really went over the wire. Without root everything runs on the loopback device, and bytes are not counted."""
import ctypes
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / "target" / "release"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


@dataclass
class Run:
    """What one process took."""
    wall: float
    cpu: float
    rss: int
    sent: int | None
    received: int | None
    output: str


class Lab:
    """Two hosts. Everything started here ends with it."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="kkartifact-bench."))
        self.started = []
        self.namespaces = None
        self.server_address = "127.0.0.1"
        if os.geteuid() == 0 and shutil.which("ip"):
            self._connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.namespaces:
            for name in self.namespaces:
                subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _connect(self):
        client, server = (f"kk-{side}-{os.getpid()}" for side in "cs")
        ip = lambda *args: subprocess.run(["ip", *args], check=True)
        for name in (client, server):
            ip("netns", "add", name)
        self.namespaces = (client, server)
        ip("link", "add", "kk0", "netns", client, "type", "veth", "peer", "name", "kk1", "netns", server)
        for name, device, address in ((client, "kk0", "10.77.0.1/30"), (server, "kk1", "10.77.0.2/30")):
            ip("-n", name, "addr", "add", address, "dev", device)
            for up in (device, "lo"):
                ip("-n", name, "link", "set", up, "up")
        self.server_address = "10.77.0.2"

    def _enter(self, side):
        """What a child does to be on a host."""
        if not self.namespaces:
            return None
        path = f"/var/run/netns/{self.namespaces[side]}"

        def enter():
            fd = os.open(path, os.O_RDONLY)
            if LIBC.setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.close(fd)

        return enter

    def counters(self):
        """Bytes that the client has sent and received."""
        if not self.namespaces:
            return None
        text = subprocess.run(["ip", "-n", self.namespaces[0], "-s", "-j", "link", "show", "dev", "kk0"],
                              check=True, capture_output=True).stdout
        stats = json.loads(text)[0]["stats64"]
        return stats["tx"]["bytes"], stats["rx"]["bytes"]

    def wait_for_port(self, port):
        """Until something on the server host listens."""
        for _ in range(500):
            probe = subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/{self.server_address}/{port}"],
                                   preexec_fn=self._enter(0), stderr=subprocess.DEVNULL, check=False)
            if probe.returncode == 0:
                return
            time.sleep(0.02)
        raise SystemExit(f"nothing listens on port {port}")

    def serve(self, command, env=None, log="log"):
        """Starts something on the server host."""
        out = open(self.dir / log, "ab")
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(env or {})},
                                   preexec_fn=self._enter(1))
        self.started.append(process)
        return process

    def run(self, command, env=None, check=True):
        """Runs something on the client host."""
        before = self.counters()
        with tempfile.TemporaryFile(dir=self.dir) as out:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT,
                                       env={**os.environ, **(env or {})}, preexec_fn=self._enter(0))
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            output = out.read().decode(errors="replace")
        if check and process.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{output}")
        after = self.counters()
        sent, received = (after[0] - before[0], after[1] - before[1]) if before else (None, None)
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, sent, received, output)


class Server:
    """A kkartifact server with its embedded defaults, and an agent signed in to it."""

    def __init__(self, lab, name="server"):
        self.lab = lab
        self.data = lab.dir / name
        ready = lab.dir / f"{name}.ready"
        self.process = lab.serve([BIN / "kkartifact", "serve", "--data-dir", self.data, "--listen",
                                  f"{lab.server_address}:0", "--ready-file", ready], log=f"{name}.log")
        while not ready.exists():
            if self.process.poll() is not None:
                raise SystemExit((lab.dir / f"{name}.log").read_text())
            time.sleep(0.02)
        self.ready = json.loads(ready.read_text())
        self.home = lab.dir / f"{name}.home"
        self.home.mkdir()
        (self.home / "config.yml").write_text("")
        self.env = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config"),
                    "XDG_CACHE_HOME": str(self.home / "cache"), "KKARTIFACT_PROJECT": "bench"}
        self.agent("login", "--server-url", self.ready["url"], "--bootstrap", self.ready["bootstrap_secret"])

    def agent(self, *args, project="bench", app="app", config=False):
        """Runs the agent."""
        more = ["--config", self.home / "config.yml"] if config else []
        env = {**self.env, "KKARTIFACT_PROJECT": project, "KKARTIFACT_APP": app}
        return self.lab.run([BIN / "kkartifact-agent", "--json", *args, *more], env=env)

    def push(self, path, version, **where):
        return self.agent("push", "--path", path, "--version", version, config=True, **where)

    def pull(self, path, version, **where):
        return self.agent("pull", "--path", path, "--version", version, config=True, **where)

    def peak_memory(self):
        """The most that the server has held, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu(self):
        return tree_cpu(self.process.pid)

    def stop(self):
        self.lab.started.remove(self.process)
        self.process.terminate()
        self.process.wait(20)


def tree_cpu(pid):
    """Seconds of processor time that a process and its finished children have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def megabytes(count):
    return f"{count / 1e6:.1f} MB"
