//! Hosts and servers as they are: full disks, mounts in the middle, an agent that is not root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use kkartifact_testkit::process::{AgentProcess, Programs, ServerProcess, with_mounts, without_privileges};
use kkartifact_testkit::tree::{chmod, noise, sample, write};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use tempfile::TempDir;

struct World {
    dir: TempDir,
    _server: ServerProcess,
    agent: AgentProcess,
}

fn world(database: TestDatabase) -> World {
    let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
    let dir = tempfile::tempdir().unwrap();
    let (server, token) = ServerProcess::start(&programs, &dir.path().join("server"), database);
    let agent = AgentProcess::new(&programs, &dir.path().join("home"), &server.url(), &token);
    std::fs::create_dir(dir.path().join("hosts")).unwrap();
    World { dir, _server: server, agent }
}

impl World {
    /// A build that exists.
    fn build(&self, name: &str) -> PathBuf {
        let build = self.dir.path().join(name);
        sample(&build);
        build
    }

    /// Runs a script with `$W`, where the builds are.
    fn script(&self, wrapper: &[&str], text: &str) -> String {
        self.agent.script(wrapper, self.dir.path(), text)
    }
}

/// Does blocking work where it may block.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.unwrap();
}

async fn a_full_disk_on_the_host_applies_nothing(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        world.build("v1");
        write(&world.build("large"), "large.bin", &noise(1, 30 << 20));
        let many = world.build("many");
        for i in 0..600 {
            write(&many, &format!("many/{i}"), b"x");
        }
        // Too few bytes, which shows before anything is fetched; and too few inodes, which shows in the middle.
        world.script(
            with_mounts(),
            r#"
            mount -t tmpfs -o size=40m,nr_inodes=300 none "$W/hosts"
            for build in v1 large many; do agent push --path "$W/$build" --version $build --force; done
            agent pull --path "$W/hosts/app" --version v1
            for build in large many; do
                code=0; agent pull --path "$W/hosts/app" --version $build --force || code=$?
                [ $code = 9 ] || { echo "$build: exit code $code"; exit 1; }
                diff -r --no-dereference "$W/v1" "$W/hosts/app"
                [ ! -e "$W/hosts/.app.kkartifact/staging" ]
                agent verify --path "$W/hosts/app"
            done
            mount -o remount,size=200m,nr_inodes=3000 "$W/hosts"
            agent pull --path "$W/hosts/app" --version many --force
            diff -r --no-dereference "$W/many" "$W/hosts/app"
            "#,
        );
    })
    .await;
}

async fn a_rollback_needs_no_room_for_what_is_on_the_host(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        write(&world.build("v1"), "large.bin", &noise(1, 20 << 20));
        write(&world.build("v2"), "large.bin", &noise(2, 20 << 20));
        world.script(
            with_mounts(),
            r#"
            mount -t tmpfs -o size=64m none "$W/hosts"
            for build in v1 v2; do
                agent push --path "$W/$build" --version $build
                agent pull --path "$W/hosts/app" --version $build
            done
            # v2 has filled the disk: 12 MiB more than it is worth leaving free.
            head -c 20M /dev/urandom > "$W/hosts/log"
            agent rollback --path "$W/hosts/app"
            diff -r --no-dereference "$W/v1" "$W/hosts/app"
            "#,
        );
    })
    .await;
}

async fn a_change_that_the_directory_does_not_let_happen_is_undone(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        for (name, content) in [("v1", "of v1"), ("v2", "of v2")] {
            let build = world.build(name);
            for path in ["aa", "static/style.css", "zz/deep"] {
                write(&build, path, content.as_bytes());
            }
        }
        chmod(&world.dir.path().join("v2"), "var", 0o711);
        write(&world.dir.path().join("v2"), "new/file", b"x");
        std::fs::remove_dir_all(world.dir.path().join("v2/lib")).unwrap();
        // A file system is mounted in the middle: nothing can be renamed into it.
        let out = world.script(
            with_mounts(),
            r#"
            for build in v1 v2; do agent push --path "$W/$build" --version $build; done
            agent pull --path "$W/hosts/app" --version v1
            mount -t tmpfs none "$W/hosts/app/static"
            cp -a "$W/v1/static/." "$W/hosts/app/static/"
            code=0; agent pull --path "$W/hosts/app" --version v2 2>&1 || code=$?
            [ $code = 1 ]
            diff -r --no-dereference "$W/v1" "$W/hosts/app"
            [ "$(stat -c %a "$W/hosts/app/var")" = "$(stat -c %a "$W/v1/var")" ]
            [ ! -e "$W/hosts/.app.kkartifact/journal" ]
            agent verify --path "$W/hosts/app"
            umount "$W/hosts/app/static"
            agent pull --path "$W/hosts/app" --version v2
            diff -r --no-dereference "$W/v2" "$W/hosts/app"
            "#,
        );
        assert!(out.contains("the change was undone") && out.contains("mounted"), "{out}");
    })
    .await;
}

async fn a_mounted_target_keeps_its_state_inside(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        world.build("v1");
        write(&world.build("v2"), "more", b"x");
        // Also where it is mounted from the same file system.
        world.script(
            with_mounts(),
            r#"
            for build in v1 v2; do agent push --path "$W/$build" --version $build; done
            mkdir "$W/volume" "$W/hosts/app"
            mount --bind "$W/volume" "$W/hosts/app"
            for build in v1 v2; do
                agent pull --path "$W/hosts/app" --version $build
                diff -r --no-dereference --exclude .kkartifact "$W/$build" "$W/hosts/app"
            done
            [ -f "$W/volume/.kkartifact/state.json" ]
            [ ! -e "$W/hosts/.app.kkartifact" ]
            "#,
        );
    })
    .await;
}

async fn an_agent_without_privileges_handles_what_may_not_be_written(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        let v1 = world.build("v1");
        write(&v1, "closed/deep/file", b"read only");
        write(&v1, "only-in-v1/closed/file", b"read only");
        write(&v1, "closed/deep/exec", b"#!/bin/true");
        let v2 = world.build("v2");
        write(&v2, "closed/deep/file", b"changed");
        write(&v2, "new/closed/file", b"x");
        chmod(&v1, "closed/deep/exec", 0o111);
        for (build, paths) in [
            (&v1, &["closed/deep/file", "only-in-v1/closed/file"][..]),
            (&v2, &["closed/deep/file", "new/closed/file"][..]),
        ] {
            for path in paths {
                chmod(build, path, 0o444);
            }
        }
        for path in ["closed/deep", "closed", "only-in-v1/closed", "only-in-v1"] {
            chmod(&v1, path, 0o555);
        }
        for path in ["closed/deep", "closed", "new/closed", "new"] {
            chmod(&v2, path, 0o555);
        }
        // Only the push needs more: a file that nobody may read can't be read.
        let agent = &world.agent;
        agent.ok(&["push", "--path", v1.to_str().unwrap(), "--version", "v1"]);
        agent.ok(&["push", "--path", v2.to_str().unwrap(), "--version", "v2"]);
        world.script(
            without_privileges(),
            r#"
            listing() { (cd "$1" && find . -mindepth 1 -printf '%P %y %m %l\n' | sort); }
            same() { diff <(listing "$1") <(listing "$W/hosts/app"); }
            for build in v1 v2 v1 v2; do
                agent pull --path "$W/hosts/app" --version $build
                same "$W/$build"
            done
            agent rollback --path "$W/hosts/app"
            same "$W/v1"
            # A file that nobody may write is gone, and one has been changed.
            chmod 755 "$W/hosts/app/closed" "$W/hosts/app/closed/deep"
            rm -f "$W/hosts/app/closed/deep/file"
            chmod 555 "$W/hosts/app/closed" "$W/hosts/app/closed/deep"
            agent pull --path "$W/hosts/app" --version v1
            same "$W/v1"
            [ "$(cat "$W/hosts/app/closed/deep/file")" = "read only" ]
            [ -z "$(ls -A "$W/hosts/.app.kkartifact/trash")" ]
            chmod -R u+w "$W"
            "#,
        );
    })
    .await;
}

async fn a_full_disk_on_the_server_publishes_nothing(db: TestDatabase) {
    blocking(move || {
        // A server of the script's own: everything that it keeps is on the small disk.
        let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
        let dir = tempfile::tempdir().unwrap();
        let agent = AgentProcess::new(&programs, &dir.path().join("home"), "", "");
        let build = dir.path().join("large");
        sample(&build);
        write(&build, "content.bin", &noise(1, 30 << 20));
        let database =
            db.url().map(|url| format!("export KKARTIFACT_DATABASE__URL='{url}'")).unwrap_or_default();
        let text = r#"
            mkdir "$W/data" "$W/hosts"
            mount -t tmpfs -o size=20m none "$W/data"
            KKARTIFACT_STORAGE__RESERVE=0 "$SERVER" --data-dir "$W/data" serve --listen 127.0.0.1:0 \
                --ready-file "$W/ready" >/dev/null 2>"$W/log" &
            server=$!
            trap 'kill $server; wait $server || true' EXIT
            while [ ! -s "$W/ready" ]; do kill -0 $server; done
            field() { sed -nE "s/.*\"$1\":\"([^\"]*)\".*/\1/p" "$W/ready"; }
            unset KKARTIFACT_TOKEN
            export KKARTIFACT_SERVER_URL=$(field url)
            agent login --bootstrap "$(field bootstrap_secret)"
            code=0; agent push --path "$W/large" --version large || code=$?
            [ $code = 9 ] || { echo "exit code $code"; cat "$W/log"; exit 1; }
            [ "$(agent versions --json | grep -c '"version"')" = 0 ]
            agent pull --path "$W/hosts/app" --version large && exit 1
            # An operator makes room, and the same push goes on where it was.
            mount -o remount,size=200m "$W/data"
            agent push --path "$W/large" --version large
            agent pull --path "$W/hosts/app" --version large
            diff -r --no-dereference "$W/large" "$W/hosts/app"
            kill $server
            wait $server
            trap - EXIT
            "$SERVER" --data-dir "$W/data" admin verify
        "#;
        agent.script(with_mounts(), dir.path(), &format!("{database}\n{text}"));
    })
    .await;
}

on_both_databases! {
    a_full_disk_on_the_host_applies_nothing,
    a_rollback_needs_no_room_for_what_is_on_the_host,
    a_change_that_the_directory_does_not_let_happen_is_undone,
    a_mounted_target_keeps_its_state_inside,
    an_agent_without_privileges_handles_what_may_not_be_written,
    a_full_disk_on_the_server_publishes_nothing,
}
