# SPDX-License-Identifier: Apache-2.0
"""The register task: small register programs, generated on demand.

A program is a list of lines in blocks, followed by the start digits of the four
registers w, x, y, z. Each line is a letter and an instruction, and each block
ends in ";". "z+x" sets z to (z + x) mod 10, "y-z" sets y to (y - z) mod 10. A
step executes one block. Hard problems have four blocks of three lines:

  problem  ^Dz+xEw-yFx+w;Gy-zHz+wIx-y;?8652
  thought  Dz+x2688658Ew-y8533658Fx+w6393958   each line, the values it reads
           and the one it makes, the state after it, and so on
  action   F3958                      the last letter and the state after it
  answer   the state after the last line: 3271

The expert's steps are the actions. The thoughts are known here (Step.thought),
but the data of SRL do not show them. A model cannot get such a step right
without working through its lines, which makes thinking worth learning.

Splits share no problem: a hash of the problem's text decides the only split in
which it may appear. Everything follows from (split, seed, index) through
SHA-512, so the data are the same on every machine and Python version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from srl_jax.domains import general
from srl_jax.domains.randomness import Draws
from srl_jax.domains.splits import SHARES, Split, split_of
from srl_jax.trajectory import Step, Trajectory

REGISTERS = general.of_subject("registers", "programs of four registers")


REGISTER_NAMES = "wxyz"
HARD_BLOCKS = 4
HARD_LINES = 3  # Lines of each block.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def parse_problem(problem: str) -> tuple[str, list[list[str]]]:
  """Returns the start state and, per block, its lines ("Dz+x")."""
  program, state = problem[1:].split(";?")
  return state, [
    [block[at : at + 4] for at in range(0, len(block), 4)]
    for block in program.split(";")
  ]


def execute(state: str, line: str) -> str:
  """Returns the state after one line: 8652, "Dz+x" -> 8658."""
  _, dest, op, source = line
  values = dict(zip(REGISTER_NAMES, map(int, state), strict=True))
  change = values[source] if op == "+" else -values[source]
  values[dest] = (values[dest] + change) % 10
  return "".join(map(str, values.values()))


def _think(state: str, lines: list[str]) -> tuple[str, str]:
  """Returns the thought that works through the lines, and the final state."""
  thought = ""
  for line in lines:
    before, state = state, execute(state, line)
    at, other = REGISTER_NAMES.index(line[1]), REGISTER_NAMES.index(line[3])
    thought += line + before[at] + before[other] + state[at] + state
  return thought, state


def _draw_problem(draws: Draws, lines_per_block: Sequence[int]) -> str:
  letter = draws.below(len(_LETTERS) - sum(lines_per_block) + 1)
  problem = "^"
  for lines in lines_per_block:
    # Each line changes another register, so a thought that leaves lines out
    # ends in a wrong state unless these lines read a zero.
    for dest in draws.sample(REGISTER_NAMES, lines):
      source = draws.sample(REGISTER_NAMES.replace(dest, ""), 1)
      problem += _LETTERS[letter] + dest + "+-"[draws.below(2)] + source
      letter += 1
    problem += ";"
  return problem + "?" + "".join(str(draws.below(10)) for _ in REGISTER_NAMES)


def _problem(
  split: Split, seed: int, index: int, lines_per_block: Sequence[int]
) -> str:
  attempt = 0
  while True:
    shape = "-".join(map(str, lines_per_block))
    draws = Draws("problem", split, seed, index, shape, attempt)
    problem = _draw_problem(draws, lines_per_block)
    if split_of(problem) == split:
      return problem
    attempt += 1


def _solve(problem: str) -> tuple[Step, ...]:
  state, blocks = parse_problem(problem)
  steps = []
  for lines in blocks:
    thought, state = _think(state, lines)
    steps.append(Step(text=lines[-1][0] + state, thought=thought))
  return tuple(steps)


def generate(
  split: Split,
  count: int,
  seed: int = 0,
  *,
  blocks: int = HARD_BLOCKS,
  lines: int = HARD_LINES,
) -> list[Trajectory]:
  """Returns expert trajectories with their thoughts.

  Args:
    split: "pretrain", "train", "valid" or "test"; no problem is in two splits.
    count: number of trajectories; a smaller count gives the first of them.
    seed: seed of the problems; another seed gives other problems.
    blocks: blocks per problem, and so steps.
    lines: lines per block, 1 to 4; at most 26 per problem.

  Raises:
    ValueError: the split, the count or the shape is not possible.
  """
  if split not in SHARES:
    raise ValueError(
      f"split {split!r} is unknown; it must be one of: {', '.join(SHARES)}."
    )
  if count < 0:
    raise ValueError(f"count is {count}; it must be 0 or more.")
  _check_shape(blocks, lines)
  trajectories = []
  for index in range(count):
    problem = _problem(split, seed, index, [lines] * blocks)
    steps = _solve(problem)
    trajectories.append(
      Trajectory(
        id=f"program{blocks}x{lines}-{split}-{seed}-{index}",
        domain=REGISTERS.name,
        problem=problem,
        steps=steps,
        answer=steps[-1].text[1:],
        metadata={"blocks": str(blocks)},
      )
    )
  return trajectories


def _check_shape(blocks: int, lines: int) -> None:
  if blocks < 1 or not 1 <= lines <= 4 or blocks * lines > len(_LETTERS):
    raise ValueError(
      f"{blocks} blocks of {lines} lines are not possible; lines are 1 to 4 "
      f"per block and at most {len(_LETTERS)} in all, for each has a letter."
    )


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
  """How well, and how badly, the student is taught before SRL.

  Easy problems have up to six blocks of one to three lines, and at most 11
  lines, one fewer than hard problems. Their solutions are right. In a hard
  problem, the thought of each step works through all three lines with
  probability `finish_probability`. Otherwise it stops after the first
  `stop_after` lines, and the action reports the state reached so far. This
  state is right only if the other lines add or subtract a zero: 3% of the
  time. So with the defaults a hard step is right 0.04 + 0.96 * 0.03 = 6.9% of
  the time, and a hard problem once in 45,000 times. This is the support that
  SRL and RLVR start from.

  Attributes:
    easy_fraction: share of easy problems.
    finish_probability: probability that a hard step's thought is complete.
    stop_after: number of lines, 1 or 2, after which an incomplete thought
      stops; several values are equally likely. It is never 0, because an empty
      thought breaks the format.
  """

  easy_fraction: float = 0.6
  finish_probability: float = 0.04
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


def pretraining_examples(
  count: int, seed: int = 0, config: PretrainingConfig | None = None
) -> list[Trajectory]:
  """Returns the student's pre-training data, planted weakness included.

  The problems are from the split "pretrain". Thoughts are filled in. After a
  wrong action the solution continues from the state that was written, as the
  student's own would. `answer` is the true one. The metadata counts the steps
  that are right given the state before them.

  Args:
    count: number of examples; a smaller count gives the first of them.
    seed: seed of the examples; another seed gives other problems and slips.
    config: the planted weakness; by default PretrainingConfig().
  """
  config = config or PretrainingConfig()
  examples = []
  for index in range(count):
    draws = Draws("example", seed, index)
    is_easy = draws.chance(config.easy_fraction)
    shape = [HARD_LINES] * HARD_BLOCKS
    if is_easy:
      shape = _draw_easy_shape(draws)
    problem = _problem("pretrain", seed, index, shape)
    expert = _solve(problem)
    steps = expert if is_easy else _sloppy_steps(problem, draws, config)
    examples.append(
      Trajectory(
        id=f"program-example-{seed}-{index}",
        domain=REGISTERS.name,
        problem=problem,
        steps=steps,
        answer=expert[-1].text[1:],
        metadata={
          "blocks": str(len(steps)),
          "kind": "easy" if is_easy else "hard",
          "right_steps": str(_right_steps(problem, steps)),
        },
      )
    )
  return examples


def _draw_easy_shape(draws: Draws) -> list[int]:
  """Returns the number of lines in each block."""
  blocks = 1 + draws.below(6)
  left = HARD_LINES * HARD_BLOCKS - 1
  shape = []
  for later in reversed(range(blocks)):
    shape.append(1 + draws.below(min(HARD_LINES, left - later)))
    left -= shape[-1]
  return shape


def _sloppy_steps(
  problem: str, draws: Draws, config: PretrainingConfig
) -> tuple[Step, ...]:
  state, blocks = parse_problem(problem)
  steps = []
  for lines in blocks:
    done = len(lines)
    if not draws.chance(config.finish_probability):
      done = config.stop_after[draws.below(len(config.stop_after))]
    thought, state = _think(state, lines[:done])
    steps.append(Step(text=lines[-1][0] + state, thought=thought))
  return tuple(steps)


def _right_steps(problem: str, steps: tuple[Step, ...]) -> int:
  state, blocks = parse_problem(problem)
  right = 0
  for lines, step in zip(blocks, steps, strict=True):
    right += _think(state, lines)[1] == step.text[1:]
    state = step.text[1:]
  return right


def make_splits(
  sizes: Mapping[str, int], seed: int
) -> dict[str, list[Trajectory]]:
  """Returns hard problems with the expert's steps, split by split."""
  return {split: generate(split, n, seed) for split, n in sizes.items()}


def make_student_splits(
  sizes: Mapping[str, int], seed: int
) -> dict[str, list[Trajectory]]:
  """Returns the student's pre-training data, with hard problems as a test.

  The hard problems are from the split "valid", so that "test" stays unseen.
  """
  return {
    "train": pretraining_examples(sizes["train"], 2 * seed),
    "valid": pretraining_examples(sizes["valid"], 2 * seed + 1),
    "test": generate("valid", sizes["test"], seed),
    "pretrain": [],
  }
