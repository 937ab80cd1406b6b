# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of runs: all that an exact resume needs.

checkpointer.py saves and restores them, pool.py writes the groups that wait for
an update, sums.py the checksums by which damage is found, and fits.py compares
names and shapes before anything is read.
"""

from srl_jax.checkpoint.checkpointer import (
  CheckpointConfig,
  Checkpointer,
)

__all__ = [
  "CheckpointConfig",
  "Checkpointer",
]
