#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What CI runs, in the environment that is active: lint and the default tests.
# Further arguments go to pytest, e.g. ./test.sh -x
set -euo pipefail
cd "$(dirname "$0")"
export JAX_PLATFORMS=cpu

python -m ruff check .
python -m ruff format --check .
python -m pytest -q -n 2 "$@"
