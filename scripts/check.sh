#!/usr/bin/env bash
# Everything that must pass, the same for a person and for CI.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
# A file stays with one process, so that what its tests share is made once. Sorted by their number
# of tests, as by default, the files with few and long ones would come last.
.venv/bin/python -m pytest -n logical --dist loadfile --no-loadscope-reorder "$@"
