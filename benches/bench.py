#!/usr/bin/env python3
"""Times pushes and pulls beside rsync, on the same trees, in the same run, taking turns, and writes one table.

    bench.py [--scale 1] [--runs 5] [--only small,mixed,large] [--output FILE]

Client and server are two network namespaces joined by a veth pair: bytes are read from its counters, not from what
a program says of itself. Every run has a server of its own, so that a cold push is cold.
"""
import argparse
import datetime
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from lab import Lab, Server, tree_cpu

WORKLOADS = ("small", "mixed", "large")
SCENARIOS = ("cold push", "update push", "no-op push", "cold pull", "update pull", "no-op pull", "rollback")
OURS, DURABLE, DAEMON, SSH = "kkartifact", "rsync --fsync", "rsync daemon", "rsync over ssh"


class Sample:
    def __init__(self, run, server_cpu):
        self.wall, self.rss = run.wall, run.rss
        self.cpu = run.cpu + server_cpu
        self.bytes = run.sent + run.received if run.sent is not None else None


class KkArtifact:
    """One app on a server of its own. The tree that is pushed changes in place, as a build does."""

    def __init__(self, lab, v1, v2, number):
        self.lab, self.v1, self.v2 = lab, v1, v2
        self.server = Server(lab, f"server-{number}")
        self.work = lab.dir / f"work-{number}"
        self.target = lab.dir / f"target-{number}"

    def prepare(self, scenario):
        if scenario == "cold push":
            subprocess.run(["cp", "-a", self.v1, self.work], check=True)
        elif scenario == "update push":
            subprocess.run(["rsync", "-a", "--delete", "--inplace", f"{self.v2}/", f"{self.work}/"], check=True)
        return [self.work] if "push" in scenario else [self.server.data]

    def run(self, scenario):
        before = self.server.cpu()
        match scenario:
            case "cold push":
                run = self.server.push(self.work, "v1")
            case "update push" | "no-op push":
                run = self.server.push(self.work, "v2")
            case "cold pull":
                run = self.server.pull(self.target, "v1")
            case "update pull" | "no-op pull":
                run = self.server.pull(self.target, "v2")
            case "rollback":
                run = self.server.agent("rollback", "--path", self.target, config=True)
        return Sample(run, self.server.cpu() - before)

    def check(self, scenario):
        want = self.v1 if scenario in ("cold pull", "rollback") else self.v2
        if "push" not in scenario:
            subprocess.run(["diff", "-r", "--no-dereference", want, self.target], check=True)

    def close(self):
        self.peak = self.server.peak_memory()
        self.server.stop()
        for path in (self.server.data, self.work, self.target):
            shutil.rmtree(path, ignore_errors=True)


class Rsync:
    """A directory on the other host, by way of a daemon or of ssh."""

    def __init__(self, lab, v1, v2, number, server, base, options):
        self.lab, self.v1, self.v2 = lab, v1, v2
        self.server, self.base, self.options = server, base, options
        self.pushed = lab.dir / f"pushed-{number}"
        self.target = lab.dir / f"target-{number}"
        self.pushed.mkdir()
        self.target.mkdir()

    def prepare(self, scenario):
        tree = self.v1 if scenario in ("cold push", "cold pull", "rollback") else self.v2
        return [tree]

    def run(self, scenario):
        before = tree_cpu(self.server.pid)
        tree = self.v1 if scenario in ("cold push", "cold pull", "rollback") else self.v2
        here, there = f"{tree}/", f"{self.base}{self.pushed}/"
        if "push" not in scenario:
            here, there = f"{self.base}{tree}/", f"{self.target}/"
        run = self.lab.run(["rsync", "-a", "--delete", *self.options, here, there])
        return Sample(run, tree_cpu(self.server.pid) - before)

    def check(self, scenario):
        want = self.v1 if scenario in ("cold push", "cold pull", "rollback") else self.v2
        have = self.pushed if "push" in scenario else self.target
        subprocess.run(["diff", "-r", "--no-dereference", want, have], check=True)

    def close(self):
        shutil.rmtree(self.pushed)
        shutil.rmtree(self.target)


def rsync_daemon(lab):
    config = lab.dir / "rsyncd.conf"
    config.write_text("use chroot = no\n[root]\npath = /\nread only = no\nuid = root\ngid = root\n"
                      if os.geteuid() == 0 else "use chroot = no\n[root]\npath = /\nread only = no\n")
    process = lab.serve(["rsync", "--daemon", "--no-detach", f"--config={config}", "--port=8873",
                         f"--address={lab.server_address}"], log="rsyncd.log")
    lab.wait_for_port(8873)
    return process, f"rsync://{lab.server_address}:8873/root"


def ssh_server(lab):
    """An sshd of our own, or nothing where it may not be started."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists() or os.geteuid() != 0:
        return None
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", lab.dir / name], check=True)
    shutil.copy(lab.dir / "client.pub", lab.dir / "authorized")
    config = lab.dir / "sshd.conf"
    config.write_text(f"Port 8822\nListenAddress {lab.server_address}\nHostKey {lab.dir}/host\nUsePAM no\n"
                      f"AuthorizedKeysFile {lab.dir}/authorized\nStrictModes no\nPermitRootLogin yes\n"
                      f"PidFile {lab.dir}/sshd.pid\n")
    process = lab.serve([sshd, "-D", "-f", config], log="sshd.log")
    lab.wait_for_port(8822)
    ssh = (f"ssh -p 8822 -i {lab.dir}/client -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
           f"-o LogLevel=ERROR -o BatchMode=yes")
    return process, f"root@{lab.server_address}:", ["-e", ssh]


def warm(lab, paths, scale):
    """The first write to a page of a virtual machine costs several times the second: pay before the clock runs."""
    scratch = lab.dir / "scratch"
    block = bytes(1 << 20)
    with open(scratch, "wb") as out:
        for _ in range(int(1024 * scale)):
            out.write(block)
    scratch.unlink()
    for path in paths:
        subprocess.run(["tar", "-cf", "/dev/null", "-C", path, "."], check=True)
    os.sync()


def measure(options):
    samples = defaultdict(list)
    memory = defaultdict(list)
    with Lab() as lab:
        trees = lab.dir / "trees"
        subprocess.run([sys.executable, Path(__file__).parent / "workloads.py", trees, "--scale", str(options.scale),
                        "--only", options.only], check=True, stdout=subprocess.DEVNULL)
        daemon, base = rsync_daemon(lab)
        peers = {
            OURS: lambda *at: KkArtifact(lab, *at),
            DURABLE: lambda *at: Rsync(lab, *at, daemon, base, ["--fsync"]),
            DAEMON: lambda *at: Rsync(lab, *at, daemon, base, []),
        }
        if ssh := ssh_server(lab):
            peers[SSH] = lambda *at: Rsync(lab, *at, *ssh)
        number = 0
        for workload in options.only.split(","):
            v1, v2 = trees / workload / "v1", trees / workload / "v2"
            for turn in range(options.runs):
                names = list(peers)
                names = names[turn % len(names):] + names[:turn % len(names)]
                players = {}
                for name in names:
                    number += 1
                    players[name] = peers[name](v1, v2, number)
                for scenario in SCENARIOS:
                    for name, player in players.items():
                        warm(lab, player.prepare(scenario), options.scale)
                        samples[workload, scenario, name].append(player.run(scenario))
                        if turn == 0:
                            player.check(scenario)
                for player in players.values():
                    player.close()
                memory[workload].append(players[OURS].peak)
                print(f"{workload}: run {turn + 1} of {options.runs}", file=sys.stderr, flush=True)
    return samples, memory, list(peers)


def seconds(samples):
    walls = [sample.wall for sample in samples]
    return f"{statistics.median(walls):.2f} ({min(walls):.2f})"


def ratio(ours, theirs, pick):
    mine, other = (statistics.median(pick(sample) for sample in group) for group in (ours, theirs))
    return f"{mine / other:.2f}" if other else "–"


def amount(count):
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    system = next((line.split("=", 1)[1].strip('"') for line in Path("/etc/os-release").read_text().splitlines()
                   if line.startswith("PRETTY_NAME")), platform.platform())
    rsync = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    disk = subprocess.run(["stat", "-f", "-c", "%T", "."], capture_output=True, text=True, check=True).stdout.strip()
    return (f"{os.cpu_count()} × {cpu}, {memory:.0f} GiB of memory, {system}, Linux {platform.release()}, {disk}; "
            f"{' '.join(rsync.split()[:3])}")


def report(options, samples, memory, peers):
    lines = [
        "# Benchmarks", "",
        "<!-- Written by `make bench` or `make bench-quick`. -->", "",
        f"Measured on {datetime.date.today()}, scale {options.scale:g}, {options.runs} runs of each, taking turns with "
        f"the others: {machine()}.", "",
        "Seconds are the wall time of the whole client process: median, and the minimum in brackets. A ratio below 1 "
        "means that kkartifact is faster, or moves less. Client and server are two network namespaces joined by a veth "
        "pair, and bytes are what its counters saw, both directions together. Every push and pull of kkartifact is "
        "synced to disk before it says so, on the server and on the host; the fair twin is `rsync --fsync`. Before each "
        "run the source is read and memory is warmed, for everyone alike. The first run of each is compared with its "
        "source by `diff -r`.", "",
        "- `small`: 20,000 source-like files in 400 folders, 82 MB; v2 edits 200, adds 20, removes 20",
        "- `mixed`: 2,000 files up to 20 MB, 516 MB; v2 rewrites 5 %, half of them in part",
        "- `large`: one incompressible file of 1 GiB; v2 inserts 1,000 bytes in the middle and overwrites ten blocks", "",
        "`rollback` is v2 → v1 on the host; the peers get the same by pulling v1 again.", "",
    ]
    others = [name for name in (DURABLE, DAEMON, SSH) if name in peers]
    for workload in options.only.split(","):
        lines += [f"## {workload}", "",
                  f"| scenario | kkartifact, s | {' | '.join(f'{name}, s' for name in others)} | "
                  f"{' | '.join(f'÷ {name}' for name in others)} | bytes | ÷ rsync | CPU ÷ rsync |",
                  "|---" * (5 + 2 * len(others)) + "|"]
        for scenario in SCENARIOS:
            ours = samples[workload, scenario, OURS]
            row = [scenario, seconds(ours)]
            row += [seconds(samples[workload, scenario, name]) for name in others]
            row += [ratio(ours, samples[workload, scenario, name], lambda s: s.wall) for name in others]
            if ours[0].bytes is None:
                row += ["–", "–"]
            else:
                row.append(amount(statistics.median(sample.bytes for sample in ours)))
                row.append(ratio(ours, samples[workload, scenario, DAEMON], lambda s: s.bytes))
            row.append(ratio(ours, samples[workload, scenario, DAEMON], lambda s: s.cpu))
            lines.append(f"| {' | '.join(row)} |")
        agent = max(sample.rss for scenario in SCENARIOS for sample in samples[workload, scenario, OURS])
        lines += ["", f"Peak memory: agent {agent / 1e6:.0f} MB, server {max(memory[workload]) / 1e6:.0f} MB.", ""]
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = report(options, *measure(options))
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
