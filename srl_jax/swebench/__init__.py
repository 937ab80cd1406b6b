# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on SWE-bench by the paper's two protocols.

asking.py puts the questions, outcomes.py says what became of the answers,
tables.py counts it, predictions.py writes patches for the official harness, and
harness.py runs that. What SWE-bench and its patches are is in domains/software.
"""
