#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What CI runs, in the environment that is active: lint, default tests, slow
# tests. Further arguments go to both pytest runs, e.g. ./test.sh -x
set -euo pipefail
cd "$(dirname "$0")"
export JAX_PLATFORMS=cpu

python -m ruff check .
python -m ruff format --check .
python -m pytest -q -n 2 "$@"
# By files: what the tests of one share is costly, and made once per worker.
python -m pytest -q -n 2 --dist=loadfile -m slow "$@"
