# SPDX-License-Identifier: Apache-2.0
"""Think blocks of an answer, and what becomes of it without them.

An intervention changes one think block and keeps everything before it. The
model goes on from there, and the share of answers that change says how much
they depend on the thought (Lanham et al. 2023, arXiv 2307.13702). Sampling is
not done here.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from srl_jax.evaluate.estimates import Estimate, share
from srl_jax.rewards.equality import same_answer
from srl_jax.rewards.format import THINK_OPEN, THINK_TAG

Kind = Literal["unchanged", "deleted", "corrupted"]
# At most so many of an answer; each costs three continuations.
_BLOCKS = 4


@dataclasses.dataclass(frozen=True)
class Block:
  """A think block of a text.

  Attributes:
    start: where the block begins.
    inner_start: where its thought begins.
    inner_end: where its thought ends.
    end: where the block ends; equal to inner_end if it never closes.
  """

  start: int
  inner_start: int
  inner_end: int
  end: int

  @property
  def is_closed(self) -> bool:
    return self.end > self.inner_end


def think_blocks(text: str) -> list[Block]:
  """Returns the think blocks of a text, as rewards.format reads them.

  A block that never closes goes on to the end. A </think> before any <think>
  closes a block that began with the text. A tag inside its own kind of place
  (<think> within a block, </think> outside) is ignored.
  """
  blocks = []
  opened: tuple[int, int] | None = None
  is_first = True
  for tag in THINK_TAG.finditer(text):
    if tag[0] == THINK_OPEN:
      opened = opened or tag.span()
    elif opened or is_first:
      start, inner = opened or (0, 0)
      blocks.append(Block(start, inner, tag.start(), tag.end()))
      opened = None
    is_first = False
  if opened:
    blocks.append(Block(*opened, len(text), len(text)))
  return blocks


@dataclasses.dataclass(frozen=True)
class Intervention:
  """A text from which the model goes on.

  Attributes:
    prefix: the answer up to the end of a think block, which is changed.
    kind: "unchanged", the control: answers also change because they are sampled
      again; "deleted", the block is empty; "corrupted", every number in it is
      another.
    block: index of the block.
  """

  prefix: str
  kind: Kind
  block: int


def interventions(text: str, *, seed: int = 0) -> list[Intervention]:
  """Returns interventions on the first four closed think blocks of an answer.

  A block without a number has no corrupted form. In the others a number gets
  another last digit, the same wherever it stands in the block.

  Args:
    text: the answer.
    seed: seed of the wrong digits.
  """
  found = []
  closed = [block for block in think_blocks(text) if block.is_closed]
  for i, block in enumerate(closed[:_BLOCKS]):
    thought = text[block.inner_start : block.inner_end]
    forms: dict[Kind, str] = {"unchanged": thought, "deleted": "\n"}
    wrong = _with_other_numbers(thought, random.Random(f"{seed}/{i}"))
    if wrong != thought:
      forms["corrupted"] = wrong
    before = text[: block.inner_start]
    close = text[block.inner_end : block.end]
    found += [
      Intervention(before + form + close, kind, i)
      for kind, form in forms.items()
    ]
  return found


def _with_other_numbers(text: str, rng: random.Random) -> str:
  others: dict[str, str] = {}

  def other(match: re.Match[str]) -> str:
    number = match[0]
    if number not in others:
      digit = (int(number[-1]) + rng.randint(1, 9)) % 10
      others[number] = number[:-1] + str(digit)
    return others[number]

  return re.sub(r"\d+", other, text)


def share_changed(
  originals: Sequence[Sequence[str]],
  continued: Sequence[Sequence[str]],
) -> Estimate:
  """Returns the share of final answers that differ after an intervention.

  An answer that is lost, or found only afterwards, has changed. Compare the
  share with that of the kind "unchanged".

  Args:
    originals: final answers before, a row for each problem; "" for none.
    continued: those after it, in the same rows.

  Raises:
    ValueError: the rows do not match.
  """
  if list(map(len, originals)) != list(map(len, continued)):
    raise ValueError(
      f"{list(map(len, originals))} original and "
      f"{list(map(len, continued))} continued answers; give one of each for "
      "every intervention, in the same order"
    )
  changed = [
    sum(
      a != b and not (a and b and same_answer(a, b))
      for a, b in zip(*row, strict=True)
    )
    for row in zip(originals, continued, strict=True)
  ]
  return share(changed, np.array([len(row) for row in originals]))
