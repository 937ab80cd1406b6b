# SPDX-License-Identifier: Apache-2.0
"""Bugs in real Python functions, by the thousand: tasks and experts' repairs.

  python -m srl_jax.domains.software.bugs --count=2000 --out=bugs

functions  modules of short functions, each with its tests
sources    reads these modules and their tests as texts
module     the text of a module with its tree
mutators   small mistakes
trials     runs mutants in a child process, within limits
planted    bugs that some tests find and others do not: tasks with issues
experts    trajectories that repair them
"""
