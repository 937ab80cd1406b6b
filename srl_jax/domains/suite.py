# SPDX-License-Identifier: Apache-2.0
"""Suites: named sets of problems with reference answers, to evaluate on.

A Suite declares where its file is and what its records hold; data/suites.py
finds and reads the file.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from srl_jax.trajectory import Step, Trajectory

# How a field of a record gives the reference answer: "text" as it stands, or
# after #### if its last line has that, or in its last box; "integer" as a whole
# number, which may be written 27.0, "025", "1,000", in a box or with a degree
# sign; "boxed" in its last box; "marked" after its last ####.
Reading = Literal["text", "integer", "boxed", "marked"]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
  """A problem of a suite; nobody's steps are known.

  Attributes:
    id: name that is unique in its suite.
    text: the question as the user would ask it.
    answer: the reference answer.
    level: difficulty, as the suite says it; "" if it says none.
    subject: field of the problem, as the suite says it; "" if it says none.
    suite: name of the suite, by which protocols choose their wording; "" if it
      is of none.
    solution: the text in which the suite gives the reference, which some
      harnesses read by rules of their own; "" if there is only the answer.
  """

  id: str
  text: str
  answer: str
  level: str = ""
  subject: str = ""
  suite: str = ""
  solution: str = ""

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


@dataclasses.dataclass(frozen=True)
class Suite:
  """A set of problems: where its file is, and what the records hold.

  Of the names of fields that a file may have, the first that a record has is
  read, in small letters or not.

  Attributes:
    name: name on the command line and in tables.
    title: what it is, in words.
    size: number of problems; 0 if unknown.
    repository: data set on the Hugging Face hub; "" if it is not there.
    revision: commit of the repository.
    file: path of the file in the repository.
    split: configuration and split of the repository that the file holds.
    local: name of the file, without its ending, that is looked for in a
      folder of suites, besides the suite's name.
    references: fields with the reference answer, and how each is read.
    problem: fields with the question.
    id: fields with a name of the problem; without any, its number is its name.
    level: fields with the difficulty.
    subject: fields with the field of the problem.
    solution: fields with the text in which the reference is given.
    foreign: (field, data set) pairs: a record with this field is of another
      data set that is easily taken for this one.
    domain: domain of the problems, as in srl_jax.domains.DOMAINS; "" for that
      of the run.
  """

  name: str
  title: str
  size: int = 0
  repository: str = ""
  revision: str = ""
  file: str = ""
  split: str = ""
  local: str = ""
  references: tuple[tuple[str, Reading], ...] = (("answer", "text"),)
  problem: tuple[str, ...] = ("problem", "question")
  id: tuple[str, ...] = ("id", "unique_id", "idx")
  level: tuple[str, ...] = ("level",)
  subject: tuple[str, ...] = ("subject", "type")
  solution: tuple[str, ...] = ("solution",)
  foreign: tuple[tuple[str, str], ...] = ()
  domain: str = "math"
