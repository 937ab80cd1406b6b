# SPDX-License-Identifier: Apache-2.0
"""Supervised reinforcement learning from expert trajectories, in JAX."""

import re
import sys

__version__ = "0.1.0"

# While Python looks for the module of `python -m srl_jax.main`, "-m" stands in
# sys.argv. The imports that follow take seconds, and a signal ends them, too.
_name = sys.argv[0] if sys.argv else ""
if _name == "-m":
  _name = sys.orig_argv[-len(sys.argv)]
if re.fullmatch(r"(.*/)?srl_jax(\.[\w.]+)?", _name):
  from srl_jax.processes import stopping

  stopping.listen()
