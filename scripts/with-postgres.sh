#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own: on a free port, in a directory that is thrown away, stopped
# when the command ends, however it ends.
#
#   scripts/with-postgres.sh COMMAND [ARG ...]
#
# The command finds the server's address in KKARTIFACT_TEST_POSTGRES.
set -euo pipefail

bin=$(pg_config --bindir 2>/dev/null || true)
for candidate in "$bin" /usr/lib/postgresql/*/bin; do
    if [ -x "$candidate/initdb" ]; then bin=$candidate; fi
done
if [ ! -x "$bin/initdb" ]; then
    echo "PostgreSQL's server programs are missing; install the package 'postgresql'" >&2
    exit 1
fi

dir=$(mktemp -d)
run=()
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root.
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown "$user" "$dir"
    run=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

stop() {
    trap - EXIT
    if [ -n "${server:-}" ]; then
        kill -QUIT "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$dir"
"${run[@]}" "$bin/initdb" -D "$dir/data" -U kkartifact -A trust -E UTF8 --no-locale --no-sync >"$dir/initdb.log" 2>&1 ||
    { cat "$dir/initdb.log" >&2; exit 1; }
cd - >/dev/null
# Nothing here has to survive a power cut, and many tests connect at the same time. The server dies with this script.
"${run[@]}" setpriv --pdeathsig QUIT "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" \
    -c listen_addresses=127.0.0.1 -c max_connections=300 -c fsync=off -c full_page_writes=off \
    -c synchronous_commit=off -c shared_buffers=128MB >"$dir/log" 2>&1 &
server=$!
for _ in $(seq 200); do
    "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && break
    kill -0 "$server" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
done

export KKARTIFACT_TEST_POSTGRES="postgres://kkartifact@127.0.0.1:$port"
status=0
"$@" || status=$?
exit "$status"
