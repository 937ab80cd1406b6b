# SPDX-License-Identifier: Apache-2.0
"""Benchmarks; each is a command, `python -m benchmarks.NAME --help`."""
