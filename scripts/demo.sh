#!/usr/bin/env bash
# The main job on a real tree with the real programs, checked at every step: push, pull, update, diff, promote,
# roll back, verify. Ends with what moved. With --keep-serving the server goes on afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$PWD/target/release
keep=${1:-}
work=$(mktemp -d)
# What the demonstration remembers stays out of the user's own home.
export HOME=$work/home XDG_CONFIG_HOME=$work/home/config XDG_CACHE_HOME=$work/home/cache
mkdir -p "$HOME"

if [ "$keep" = --keep-serving ]; then data=$PWD/.run/data; else data=$work/data; fi
server=
cleanup() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

serve() {
    rm -f "$work/ready"
    "$bin/kkartifact" serve --data-dir "$data" --listen "$1" --ready-file "$work/ready" >"$work/server.out" 2>"$work/server.log" &
    server=$!
    while [ ! -f "$work/ready" ]; do
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
}

start() {
    serve 127.0.0.1:8420 || serve 127.0.0.1:0 || { cat "$work/server.log" >&2; exit 1; }
}

step() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }
agent() {
    echo "\$ kkartifact-agent $*" | sed "s: --json$::; s:$work/::g"
    "$bin/kkartifact-agent" "$@" 2>>"$work/agent.log" || { cat "$work/agent.log" >&2; exit 1; }
}
# The same, and what it says of itself kept in a file.
measured() {
    local file=$work/$1
    shift
    agent "$@" --json >"$file.out"
    sed -n 1p "$file.out"
    sed 1d "$file.out" >"$file"
    printf '  %s, %s bytes sent, %s received\n' "$(field outcome <"$file")" "$(field bytes_sent <"$file")" "$(field bytes_received <"$file")"
}
field() { sed -nE "s/.*\"$1\":\"?([^\",}]*)\"?.*/\1/p"; }

# Paths, kinds, modes, link targets: all that a version carries beside the content.
listing() { (cd "$1" && find . -mindepth 1 ! -name .kkartifact.yml -printf '%P\t%y\t%m\t%l\n' | LC_ALL=C sort); }
same() {
    diff -r --no-dereference --exclude .kkartifact.yml "$1" "$2"
    diff <(listing "$1") <(listing "$2")
    echo "  ✓ $2 is exactly $1: content, modes, links"
}

step "A build: this project's sources and programs"
build=$work/build
mkdir -p "$build"
cp -a crates agent server api-service transfer-service jobs-service gateway migrations "$build/"
mkdir -p "$build/bin" "$build/var/empty"
cp "$bin/kkartifact" "$bin/kkartifact-agent" "$build/bin/"
ln -s kkartifact "$build/bin/kk"
ln -s ../crates/model "$build/var/model"
chmod 640 "$build/gateway/routes.toml"
find "$build" -type f | wc -l | xargs printf '  %s files, '
du -sh --apparent-size "$build" | cut -f1
cp -a "$build" "$work/v1"

step "A server with its embedded defaults"
start
url=$(field url <"$work/ready")
secret=$(field bootstrap_secret <"$work/ready")
if [ -z "$secret" ] || [ "$secret" = null ]; then
    # The secret has been spent by an earlier run: ask for a new one as an operator would.
    kill "$server" && wait "$server" || true
    "$bin/kkartifact" --data-dir "$data" admin bootstrap >/dev/null
    start
    url=$(field url <"$work/ready")
    secret=$(field bootstrap_secret <"$work/ready")
fi
echo "  $url"
export KKARTIFACT_PROJECT=demo KKARTIFACT_APP=app-$(date +%s)
agent login --server-url "$url" --bootstrap "$secret" >/dev/null
echo "  ✓ signed in with the one-time secret"
agent init --path "$build"
cp "$build/.kkartifact.yml" "$work/.kkartifact.yml"
config=(--config "$work/.kkartifact.yml")
host=$work/host/app

step "Push v1, and pull it on a host"
measured push-v1 push --path "$build" --version v1
measured pull-v1 pull --path "$host" --version v1 "${config[@]}"
same "$work/v1" "$host"

step "The next build: an edit in a program, a file changed, one new, one gone, a mode, a link"
printf 'patched' | dd of="$build/bin/kkartifact" bs=1 seek=2000000 conv=notrunc status=none
echo "// a comment" >>"$build/crates/model/src/lib.rs"
echo "new in v2" >"$build/NEWS"
rm "$build/server/src/main.rs"
chmod 755 "$build/gateway/routes.toml"
ln -sfn kkartifact-agent "$build/bin/kk"
cp -a "$build" "$work/v2"

step "Push v2, and pull it: only the difference moves"
measured push-v2 push --path "$build" --version v2
measured pull-v2 pull --path "$host" --version v2 "${config[@]}"
same "$work/v2" "$host"
measured push-again push --path "$build" --version v2
measured pull-again pull --path "$host" --version v2 "${config[@]}"

step "What changed"
agent diff v1 v2
agent promote v1
agent promote v2
agent versions

step "Something is wrong with v2: back to v1"
agent rollback --channel stable
measured rollback rollback --path "$host"
same "$work/v1" "$host"
agent verify --path "$host"
agent status --path "$host"

step "Everything on the server is what it claims to be"
"$bin/kkartifact" --data-dir "$data" admin verify

step "Bytes moved"
size=$(field bytes <"$work/push-v1")
row() {
    local sent received milliseconds
    sent=$(field bytes_sent <"$work/$2")
    received=$(field bytes_received <"$work/$2")
    milliseconds=$(field milliseconds <"$work/$2")
    printf '  %-28s %12s sent %12s received %8s ms\n' "$1" "$sent" "$received" "$milliseconds"
}
printf '  %-28s %12s bytes\n' "the build" "$size"
row "push v1" push-v1
row "pull v1" pull-v1
row "push v2" push-v2
row "pull v2" pull-v2
row "push v2 again" push-again
row "pull v2 again" pull-again
row "rollback to v1" rollback

# Only the difference moved, and nothing when nothing had changed.
for update in push-v2:bytes_sent pull-v2:bytes_received; do
    [ "$(field "${update#*:}" <"$work/${update%:*}")" -lt $((size / 10)) ]
done
for still in push-again:bytes_sent pull-again:bytes_received rollback:bytes_received; do
    [ "$(field "${still#*:}" <"$work/${still%:*}")" -lt 4096 ]
done

if [ "$keep" != --keep-serving ]; then
    step "✓ every step was checked"
    exit 0
fi

step "The server goes on; Ctrl-C stops it"
kill "$server" && wait "$server" || true
server=
"$bin/kkartifact" --data-dir "$data" admin bootstrap >/dev/null
start
cat "$work/server.out"
wait "$server"
