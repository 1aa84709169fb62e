#!/usr/bin/env bash
# Pushes a directory to a server of its own, pulls it, and compares all that a version carries. A second push and a
# second pull must move no content.
#
#   scripts/roundtrip.sh DIR
set -euo pipefail
source=${1:?usage: make roundtrip SRC=DIR}
source=$(realpath "$source")
cd "$(dirname "$0")/.."

bin=$PWD/target/release
work=$(mktemp -d "${TMPDIR:-/tmp}/kkartifact-roundtrip.XXXXXX")
export HOME=$work/home XDG_CONFIG_HOME=$work/home/config XDG_CACHE_HOME=$work/home/cache
mkdir -p "$HOME"
server=
cleanup() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$bin/kkartifact" serve --data-dir "$work/data" --listen 127.0.0.1:0 --ready-file "$work/ready" >"$work/log" 2>&1 &
server=$!
while [ ! -f "$work/ready" ]; do
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
done
field() { sed -nE "s/.*\"$1\":\"?([^\",}]*)\"?.*/\1/p"; }
agent() { "$bin/kkartifact-agent" "$@"; }

export KKARTIFACT_PROJECT=roundtrip KKARTIFACT_APP=tree
agent -q login --server-url "$(field url <"$work/ready")" --bootstrap "$(field bootstrap_secret <"$work/ready")"
touch "$work/config.yml"
config=(--config "$work/config.yml")

agent push --path "$source" --version v1 "${config[@]}"
agent pull --path "$work/target" --version v1 "${config[@]}"

listing() { (cd "$1" && find . -mindepth 1 -printf '%P\t%y\t%m\t%l\n' | LC_ALL=C sort); }
times() { (cd "$1" && find . -type f -printf '%P\t%T@\n' | LC_ALL=C sort); }
diff -r --no-dereference "$source" "$work/target"
diff <(listing "$source") <(listing "$work/target")
diff <(times "$source") <(times "$work/target")
printf '✓ equal: content, kinds, modes, links, times of %s paths (%s links)\n' \
    "$(listing "$source" | wc -l)" "$(find "$source" -type l | wc -l)"

agent --json push --path "$source" --version v1 "${config[@]}" >"$work/push"
agent --json pull --path "$work/target" --version v1 "${config[@]}" >"$work/pull"
sent=$(field bytes_sent <"$work/push")
chunks=$(field chunks_sent <"$work/push")
received=$(field bytes_received <"$work/pull")
printf '✓ again: push sent %s bytes, %s chunks (%s ms); pull received %s bytes (%s ms)\n' \
    "$sent" "$chunks" "$(field milliseconds <"$work/push")" "$received" "$(field milliseconds <"$work/pull")"
[ "$chunks" = 0 ] && [ "$sent" -lt 4096 ] && [ "$received" -lt 4096 ]
"$bin/kkartifact" --data-dir "$work/data" admin verify
