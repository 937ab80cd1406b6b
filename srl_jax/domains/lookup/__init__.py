# SPDX-License-Identifier: Apache-2.0
"""The look-up task: small repositories of look-up tables, to repair.

A repository has six functions. Each finds its argument in a table of its own
and passes what it finds on to the next one. The issue names a call, what it
gives and what it should give: two entries that the call reads are wrong. The
documentation of each function says what it should find in that call. Actions
are terse, so that a step costs few tokens:

  ?b      looks at `b`. Observation "cWzXyYxZw.x": `b` passes on to `c`, its
          table is w->z, x->y, y->x, z->w, and it should find x.
  b=Wx    edits `b`, which now finds x for w. Observation "-".
  !       runs the call of the issue. Observation: what it gives.
  .       submits. The episode ends.

Any other action has the observation "E". Hidden tests compare every entry of
every function. `files` writes the same repository as Python files.

A value is a capital where it is an argument.

Three styles of experts repair each repository, so that more than one action is
often valid. They look at every function of the call before the first edit.
Their thought before an edit traces the call from its first function on: name,
argument, what the table gives, what it should give.

Splits share no repository: a hash decides the only split in which one may
appear. Everything follows from (split, seed, index) through SHA-512.
"""

from __future__ import annotations

import dataclasses

from srl_jax.domains import general
from srl_jax.domains.lookup.experts import make_splits, make_student_splits
from srl_jax.domains.lookup.repository import Interpreter, Repository
from srl_jax.trajectory import Trajectory

__all__ = ["LOOKUP", "LookupEnvironment", "make_splits", "make_student_splits"]


class LookupEnvironment:
  """Executes an episode's actions on the repository of its trajectory."""

  def reset(self, trajectory: Trajectory) -> None:
    repository = Repository.from_json(trajectory.metadata["repository"])
    self._interpreter = Interpreter(repository)

  def step(self, action: str) -> tuple[str, bool]:
    return self._interpreter.step(action.strip())

  def solved(self) -> bool:
    return self._interpreter.solved()

  def close(self) -> None:
    pass


LOOKUP = dataclasses.replace(
  general.of_subject("lookup", "small repositories of look-up tables"),
  is_final=lambda action: action.strip() == ".",
  environment=LookupEnvironment,
)
