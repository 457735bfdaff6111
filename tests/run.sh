#!/bin/sh
# Every check of the project, from a fresh clone: style, types, unit tests, then the real engines on tiny models.
# Usage: sh tests/run.sh [fast]     fast: only what needs no engine (a few minutes)
set -eu
cd "$(dirname "$0")/.."

started=$(date +%s)
step() { printf '\n== %s (%s s)\n' "$1" "$(($(date +%s) - started))"; }

step "environment"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
run() { .venv/bin/python -m "$@"; }

step "style and types"
run ruff check .
run ruff format --check .
run mypy

step "unit, property and command line tests"
run pytest -q -m "not engine and not pipeline"

[ "${1:-all}" = fast ] && exit 0

step "a browser for the report's tests"
if ! command -v chromium > /dev/null || ! command -v chromedriver > /dev/null; then
    # Debian's own packages; where this is not Debian, or not root, the tests say what is missing.
    if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver > /dev/null
    fi
fi

step "engine environments"
run prism_cli env build

step "the whole quick pipeline, all engines"
run pytest -q -m pipeline

step "real engines, one by one"
run pytest -q -m engine

step "done"
