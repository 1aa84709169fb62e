#!/usr/bin/env python3
"""Peak resident memory of server and agent while a large file and a manifest of many entries are pushed and
pulled. Fails if any of them takes more than the limit.

    memory.py [--file-gib 4] [--entries 1000000] [--limit-mb 300]
"""
import argparse
import os
import shutil

from lab import Lab, Server, megabytes


def large(root, gib):
    root.mkdir(parents=True)
    with open(root / "large.bin", "wb") as out:
        for _ in range(int(gib * 1024)):
            out.write(os.urandom(1 << 20))


def many(root, entries):
    """Files of a few bytes, a thousand to a directory."""
    per = 999
    for i in range(-(-entries // (per + 1))):
        directory = root / f"d{i:05d}"
        directory.mkdir(parents=True)
        for j in range(min(per, entries - i * (per + 1) - 1)):
            (directory / f"f{j:04d}").write_bytes(b"%d" % (i * per + j))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file-gib", type=float, default=4)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--limit-mb", type=int, default=300)
    options = parser.parse_args()
    over = False
    print(f"{'what':44} {'seconds':>8} {'agent':>12} {'server':>12}")
    for name, make in (("file", lambda root: large(root, options.file_gib)),
                       ("manifest", lambda root: many(root, options.entries))):
        with Lab() as lab:
            source, target = lab.dir / "source", lab.dir / "target"
            make(source)
            what = f"{options.file_gib:g} GiB file" if name == "file" else f"{options.entries:,} entries"
            server = Server(lab)
            steps = (("push", lambda: server.push(source, "v1")), ("pull", lambda: server.pull(target, "v1")),
                     ("push again", lambda: server.push(source, "v2")), ("pull again", lambda: server.pull(target, "v2")))
            for step, run in steps:
                done = run()
                peak = server.peak_memory()
                print(f"{what + ', ' + step:44} {done.wall:8.1f} {megabytes(done.rss):>12} {megabytes(peak):>12}", flush=True)
                over |= max(done.rss, peak) > options.limit_mb * 1e6
            shutil.rmtree(source)
            shutil.rmtree(target)
    if over:
        raise SystemExit(f"more than {options.limit_mb} MB")
    print(f"✓ nobody took more than {options.limit_mb} MB")


if __name__ == "__main__":
    main()
