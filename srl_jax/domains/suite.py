# SPDX-License-Identifier: Apache-2.0
"""Suites: named sets of problems with reference answers, to evaluate on."""

from __future__ import annotations

import dataclasses

from srl_jax.trajectory import Step, Trajectory


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
  """A problem of a suite; nobody's steps are known.

  Attributes:
    id: name that is unique in its suite.
    text: the question as the user would ask it.
    answer: the reference answer.
    level: difficulty, as the suite says it; "" if it says none.
    subject: field of the problem, as the suite says it; "" if it says none.
  """

  id: str
  text: str
  answer: str
  level: str = ""
  subject: str = ""

  def trajectory(self, domain: str) -> Trajectory:
    """The problem as a trajectory whose only step is the answer.

    Templates and episodes take trajectories. No step of it is ever shown.
    """
    return Trajectory(
      id=self.id,
      domain=domain,
      problem=self.text,
      steps=(Step(self.answer),),
      answer=self.answer,
    )
