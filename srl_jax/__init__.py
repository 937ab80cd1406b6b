# SPDX-License-Identifier: Apache-2.0
"""Supervised reinforcement learning from expert trajectories, in JAX."""

__version__ = "0.1.0"
