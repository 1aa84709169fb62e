#!/usr/bin/env bash
# Makes the generated files anew, or with --check says which are out of date.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --quiet --workspace --all-targets
env -i PATH="$PATH" HOME="$HOME" target/debug/generate docs/reference "$@"
