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
as_user=()
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root.
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown "$user" "$dir"
    as_user=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
fi

server=
stop() {
    trap - EXIT
    if [ -n "$server" ]; then
        kill -QUIT "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

(cd "$dir" && "${as_user[@]}" "$bin/initdb" -D "$dir/data" -U kkartifact -A trust -E UTF8 --no-locale --no-sync) \
    >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }

# Nothing here has to survive a power cut, and many tests connect at the same time. Should this script be killed,
# the server dies with it.
start() {
    "${as_user[@]}" setpriv --pdeathsig QUIT "$bin/postgres" -D "$dir/data" -p "$1" -k "$dir" \
        -c listen_addresses=127.0.0.1 -c max_connections=300 -c fsync=off -c full_page_writes=off \
        -c synchronous_commit=off -c shared_buffers=128MB >"$dir/log" 2>&1 &
    server=$!
    while kill -0 "$server" 2>/dev/null; do
        "$bin/pg_isready" -q -h 127.0.0.1 -p "$1" && return 0
        sleep 0.1
    done
    return 1
}

for attempt in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 20000))
    start "$port" && break
    # The port was taken.
    if [ "$attempt" = 5 ]; then cat "$dir/log" >&2; exit 1; fi
done

export KKARTIFACT_TEST_POSTGRES="postgres://kkartifact@127.0.0.1:$port"
status=0
"$@" || status=$?
exit "$status"
