#!/usr/bin/env bash
# Makes sure that the programs which a goal needs are there: installs them as root on Debian and its relatives,
# else says what to install.
#
#   scripts/need.sh GOAL ...        GOAL: build, test, check, bench
set -euo pipefail

# command:Debian package
declare -A needs=(
    [build]="cc:gcc make:make git:git"
    [test]="initdb:postgresql redis-server:redis-server setpriv:util-linux curl:curl jq:jq"
    [check]=""
    [bench]="python3:python3 rsync:rsync ip:iproute2 sshd:openssh-server ssh:openssh-client"
)

there() {
    case $1 in
        initdb) compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || command -v initdb >/dev/null ;;
        sshd) [ -x /usr/sbin/sshd ] || command -v sshd >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

packages=()
for goal in "$@"; do
    for need in ${needs[$goal]}; do
        there "${need%%:*}" || packages+=("${need##*:}")
    done
done

if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing: ${packages[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    else
        echo "missing; please install: ${packages[*]}" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "missing: Rust 1.95 or newer; see https://rustup.rs" >&2
    exit 1
fi

# Tools that come as crates.
crate() {
    cargo "$1" --version >/dev/null 2>&1 || cargo install --locked --quiet "cargo-$1"
}
for goal in "$@"; do
    case $goal in
        test) crate nextest ;;
        check)
            crate deny
            crate machete
            ;;
    esac
done
