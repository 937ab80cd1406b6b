# SPDX-License-Identifier: Apache-2.0
"""Supervised reinforcement learning from expert trajectories, in JAX."""

import sys

__version__ = "0.1.0"

# While Python looks for the module of `python -m srl_jax.main`, "-m" stands in
# sys.argv. The imports that follow take seconds, and a signal ends them, too.
if sys.argv[:1] == ["-m"] and "srl_jax." in sys.orig_argv[-len(sys.argv)]:
  from srl_jax import stopping

  stopping.listen()
