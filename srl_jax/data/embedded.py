# SPDX-License-Identifier: Apache-2.0
"""The embedded task: small register programs, made on the spot.

A program starts with the digits of four registers w, x, y, z and goes on
with blocks of three instructions, each block headed by a letter. "z+x" sets z
to (z + x) mod 10, "y-z" sets y to (y - z) mod 10:

  problem  ^8652Dz+xw-yx+wEy-zz+wx-y
  thought  z+x2688658w-y8533658x+w6393958   each instruction, the values it
           reads and the one it makes, the state after it, and so on
  action   D3958                     the block's letter and the state after it
  answer   the state after the last block: 3271

The expert's steps are the actions; the thoughts are known here (Step.thought)
but the data of SRL do not show them. Nobody gets such a step right without
working through its instructions, which is what makes thinking worth learning.

Splits share no problem: a hash of the problem's text says which split it may
appear in. Everything follows from (split, seed, index) through SHA-512, so
the data are the same on every machine and Python version.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal

from srl_jax.data.schema import Step, Trajectory

Split = Literal["pretrain", "train", "valid", "test"]

REGISTERS = "wxyz"
INSTRUCTIONS_PER_BLOCK = 3
HARD_BLOCKS = 4
_MAX_BLOCKS = 8  # what one SHA-512 has bits for
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Percent of all problems that belong to each split.
_SHARES: dict[Split, int] = {
  "pretrain": 40,
  "train": 40,
  "valid": 10,
  "test": 10,
}


class _Draws:
  """Random numbers that follow from a name, the same everywhere for ever."""

  def __init__(self, *name: object) -> None:
    text = "/".join(map(str, name))
    self._left = int.from_bytes(hashlib.sha512(text.encode()).digest(), "big")

  def below(self, bound: int) -> int:
    """Returns one of 0..bound-1; 512 bits are there to be used up."""
    self._left, number = divmod(self._left, bound)
    return number

  def chance(self, probability: float) -> bool:
    return self.below(1 << 32) < probability * (1 << 32)

  def sample(self, items: str, count: int) -> str:
    left = list(items)
    return "".join(left.pop(self.below(len(left))) for _ in range(count))


def split_of(problem: str) -> Split:
  """Returns the only split in which a problem may appear."""
  digest = hashlib.sha256(problem.encode()).digest()
  place = int.from_bytes(digest[:8], "big") % 100
  for split, share in _SHARES.items():
    if place < share:
      return split
    place -= share
  raise AssertionError("the shares add up to 100")


def parse_problem(problem: str) -> tuple[str, list[tuple[str, list[str]]]]:
  """Returns the start state and, per block, its letter and instructions."""
  size = 1 + 3 * INSTRUCTIONS_PER_BLOCK
  state, body = problem[1:5], problem[5:]
  blocks = []
  for at in range(0, len(body), size):
    block = body[at : at + size]
    blocks.append((block[0], [block[i : i + 3] for i in range(1, size, 3)]))
  return state, blocks


def execute(state: str, instruction: str) -> str:
  """Returns the state after one instruction: 8652, "z+x" -> 8658."""
  dest, op, source = instruction
  values = dict(zip(REGISTERS, map(int, state), strict=True))
  change = values[source] if op == "+" else -values[source]
  values[dest] = (values[dest] + change) % 10
  return "".join(map(str, values.values()))


def _think(state: str, instructions: list[str]) -> tuple[str, str]:
  """Returns the thought that works through instructions, and the state."""
  thought = ""
  for instruction in instructions:
    dest, _, source = instruction
    before, state = state, execute(state, instruction)
    at, other = REGISTERS.index(dest), REGISTERS.index(source)
    thought += instruction + before[at] + before[other] + state[at] + state
  return thought, state


def _draw_problem(draws: _Draws, blocks: int) -> str:
  problem = "^" + "".join(str(draws.below(10)) for _ in REGISTERS)
  first = draws.below(len(_LETTERS) - blocks + 1)
  for letter in _LETTERS[first : first + blocks]:
    problem += letter
    # Three different registers change, so what a thought leaves out cannot
    # be right by luck more often than once in ten per register.
    for dest in draws.sample(REGISTERS, INSTRUCTIONS_PER_BLOCK):
      source = draws.sample(REGISTERS.replace(dest, ""), 1)
      problem += dest + "+-"[draws.below(2)] + source
  return problem


def _problem(split: Split, seed: int, index: int, blocks: int) -> str:
  attempt = 0
  while True:
    draws = _Draws("problem", split, seed, index, blocks, attempt)
    problem = _draw_problem(draws, blocks)
    if split_of(problem) == split:
      return problem
    attempt += 1


def _solve(problem: str) -> tuple[Step, ...]:
  state, blocks = parse_problem(problem)
  steps = []
  for letter, instructions in blocks:
    thought, state = _think(state, instructions)
    steps.append(Step(text=letter + state, thought=thought))
  return tuple(steps)


def generate(
  split: Split, count: int, seed: int = 0, *, blocks: int = HARD_BLOCKS
) -> list[Trajectory]:
  """Returns expert trajectories with their thoughts; domain "program".

  Args:
    split: "pretrain", "train", "valid" or "test"; no problem is in two.
    count: how many; the first ones do not depend on it.
    seed: another seed gives other problems.
    blocks: blocks (and so steps) per problem, 1 to 8; 4 is "hard".
  """
  if split not in _SHARES:
    raise ValueError(
      f"split {split!r} is unknown; it must be one of: {', '.join(_SHARES)}."
    )
  if count < 0 or not 1 <= blocks <= _MAX_BLOCKS:
    raise ValueError(
      f"count is {count} and blocks is {blocks}; count must be 0 or more, "
      f"blocks 1 to {_MAX_BLOCKS}."
    )
  trajectories = []
  for index in range(count):
    problem = _problem(split, seed, index, blocks)
    steps = _solve(problem)
    trajectories.append(
      Trajectory(
        id=f"program{blocks}-{split}-{seed}-{index}",
        domain="program",
        problem=problem,
        steps=steps,
        answer=steps[-1].text[1:],
        metadata={"blocks": str(blocks)},
      )
    )
  return trajectories


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
  """How well, and how badly, the student is taught before SRL.

  Each step of a hard problem is thought through to its end with probability
  `finish_probability`. Otherwise the thought stops after the first
  `stop_after` of its three instructions, and the action reports the state
  reached so far, which is right only if the others add or subtract a zero.
  With the defaults a hard step is right 0.15 + 0.85 / 100 = 15.9% of the
  time, a hard problem 0.06% of the time: that is the support that SRL and
  RLVR have.

  Attributes:
    easy_fraction: share of easy problems, which are solved right.
    easy_blocks: numbers of blocks of easy problems, equally likely.
    hard_blocks: number of blocks of hard problems.
    finish_probability: see above; per step.
    stop_after: see above, 1 or 2; several are equally likely. Never 0: an
      empty thought breaks the format.
  """

  easy_fraction: float = 0.6
  easy_blocks: tuple[int, ...] = (1, 2, 3)
  hard_blocks: int = HARD_BLOCKS
  finish_probability: float = 0.15
  stop_after: tuple[int, ...] = (1,)

  def __post_init__(self) -> None:
    for name in ("easy_fraction", "finish_probability"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f"{name} is {getattr(self, name)}; it must be from 0 to 1."
        )
    if not self.stop_after or not set(self.stop_after) <= {1, 2}:
      raise ValueError(
        f"stop_after is {self.stop_after}; give 1, 2 or both, as a tuple."
      )
    for blocks in (*(self.easy_blocks or (0,)), self.hard_blocks):
      if not 1 <= blocks <= _MAX_BLOCKS:
        raise ValueError(
          f"easy_blocks is {self.easy_blocks} and hard_blocks "
          f"{self.hard_blocks}; numbers of blocks are 1 to {_MAX_BLOCKS}."
        )

  def step_accuracy(self) -> float:
    """Returns how often a hard step of the examples is right (expected)."""
    luck = [0.1 ** (INSTRUCTIONS_PER_BLOCK - n) for n in self.stop_after]
    missed = (1 - self.finish_probability) * sum(luck) / len(luck)
    return self.finish_probability + missed


def pretraining_examples(
  count: int, seed: int = 0, config: PretrainingConfig | None = None
) -> list[Trajectory]:
  """Returns what the student is pre-trained on, planted weakness included.

  The problems are of the split "pretrain". Thoughts are filled in. After a
  wrong action the solution goes on from the state that was written, as the
  student's own would. `answer` is the true one, and metadata counts the steps
  that are right given the state before them.

  Args:
    count: how many; the first ones do not depend on it.
    seed: another seed gives other problems and other slips.
    config: default PretrainingConfig().
  """
  config = config or PretrainingConfig()
  examples = []
  for index in range(count):
    draws = _Draws("example", seed, index)
    is_easy = draws.chance(config.easy_fraction)
    blocks = config.hard_blocks
    if is_easy:
      blocks = config.easy_blocks[draws.below(len(config.easy_blocks))]
    problem = _problem("pretrain", seed, index, blocks)
    expert = _solve(problem)
    steps = expert if is_easy else _sloppy_steps(problem, draws, config)
    examples.append(
      Trajectory(
        id=f"program{blocks}-example-{seed}-{index}",
        domain="program",
        problem=problem,
        steps=steps,
        answer=expert[-1].text[1:],
        metadata={
          "blocks": str(blocks),
          "kind": "easy" if is_easy else "hard",
          "right_steps": str(_right_steps(problem, steps)),
        },
      )
    )
  return examples


def _sloppy_steps(
  problem: str, draws: _Draws, config: PretrainingConfig
) -> tuple[Step, ...]:
  state, blocks = parse_problem(problem)
  steps = []
  for letter, instructions in blocks:
    done = len(instructions)
    if not draws.chance(config.finish_probability):
      done = config.stop_after[draws.below(len(config.stop_after))]
    thought, state = _think(state, instructions[:done])
    steps.append(Step(text=letter + state, thought=thought))
  return tuple(steps)


def _right_steps(problem: str, steps: tuple[Step, ...]) -> int:
  state, blocks = parse_problem(problem)
  right = 0
  for (_, instructions), step in zip(blocks, steps, strict=True):
    right += _think(state, instructions)[1] == step.text[1:]
    state = step.text[1:]
  return right
