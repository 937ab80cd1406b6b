# SPDX-License-Identifier: Apache-2.0
"""Evaluation: single steps against the expert's, and whole solutions.

Whole solutions are found in one of two ways. "turns" is what SRL trains: the
model sees the problem and its own earlier actions, thinks, writes the next
action, and its thought is dropped. "solve" lets it write everything in one
go, with its thoughts left in context. The two can differ a lot, so both can
be reported; the first is the default.

Every number comes with a bootstrap interval over problems.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from srl_jax.data import batching
from srl_jax.data.templates import Template, encode_segment
from srl_jax.data.trunks import BranchPoint, Trunk
from srl_jax.evaluate.estimates import Estimate, bootstrap, pass_at_k
from srl_jax.evaluate.steps import _rounded_up, _sampled
from srl_jax.rewards import answers, format
from srl_jax.rollout import scoring
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Step, Trajectory

Mode = Literal["turns", "solve"]


# Trunks of a turn are padded to a multiple of this, so that a whole
# evaluation needs only a few programs.
_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured before and after training.

  Attributes:
    modes: how whole solutions are found, of "turns" and "solve".
    problems: how many problems of the test split; 0 for all.
    samples: solutions per problem for avg@n and pass@k; 0 for greedy only.
    temperature: of those samples (greedy decoding is always reported).
    max_turns: of "turns"; a solution without final answer ends there.
    max_turn_tokens: limit of each turn.
    max_solve_tokens: limit of a solution in one go.
    step_trunks: how many test trajectories the step metrics use; 0 for all.
    rows_per_batch: solutions or trunks decoded together.
  """

  modes: tuple[Mode, ...] = ("turns", "solve")
  problems: int = 0
  samples: int = 0
  temperature: float = 1.0
  max_turns: int = 16
  max_turn_tokens: int = 256
  max_solve_tokens: int = 1024
  step_trunks: int = 0
  rows_per_batch: int = 64


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One attempt at a problem.

  Attributes:
    problem: index of the trajectory.
    sample: index of the sample.
    texts: what the model wrote, turn by turn, thoughts included.
    is_correct: whether its final answer is the reference answer.
    ending: "answered", "no action", "turn limit" or "context full".
  """

  problem: int
  sample: int
  texts: tuple[str, ...]
  is_correct: bool
  ending: str


def solve_problems(
  make_sampler: Callable[[SamplingConfig, str], Sampler],
  params: Any,
  trajectories: Sequence[Trajectory],
  *,
  mode: Mode,
  samples: int,
  temperature: float,
  config: EvalConfig,
  key: jax.Array,
  template: Template,
  tokenizer: Tokenizer,
  max_positions: int,
) -> list[Attempt]:
  """Lets the model solve problems; all processes get all attempts.

  Args:
    make_sampler: (sampling config, task) to a compiled sampler.
    params: parameters.
    trajectories: problems with reference answers.
    mode: "turns" or "solve".
    samples: attempts per problem.
    temperature: 0 for greedy.
    config: limits.
    key: random key.
    template: wording.
    tokenizer: tokens.
    max_positions: the model's context length in tokens.

  Raises:
    ValueError: the limits leave no room for any problem.
  """
  task = "step" if mode == "turns" else "solve"
  turns = config.max_turns if mode == "turns" else 1
  limit = config.max_turn_tokens if mode == "turns" else config.max_solve_tokens
  stem = encode_segment(tokenizer, template.stem(task, 1))
  longest = max_positions - limit - len(stem)
  if longest < 1:
    name = "max_turn_tokens" if mode == "turns" else "max_solve_tokens"
    raise ValueError(
      f"solutions of up to {limit} tokens leave no room for a problem in a "
      f"context of {max_positions} tokens (c.model.max_positions); lower "
      f"c.evaluate.{name}, or leave {mode!r} out of c.evaluate.modes"
    )
  sampler = make_sampler(
    SamplingConfig(samples=1, max_new_tokens=limit, temperature=temperature),
    task,
  )
  open_rows = [
    _Solution(
      problem,
      sample,
      encode_segment(tokenizer, template.problem(trajectory, task)),
    )
    for problem, trajectory in enumerate(trajectories)
    for sample in range(samples)
  ]
  everything = list(open_rows)
  for turn in range(turns):
    for row in open_rows:
      if len(row.tokens) > longest:
        row.ending = "context full"
    open_rows = [row for row in open_rows if not row.ending]
    if not open_rows:
      break
    trunks = [
      _turn_record(
        row, trajectories[row.problem], turn, task, template, tokenizer
      )
      for row in open_rows
    ]
    widths = batching.widths(trunks)
    widths = widths._replace(trunk=_rounded_up(widths.trunk, _BUCKET))
    for first, batch, branches in _sampled(
      sampler, params, trunks, key, widths, config.rows_per_batch
    ):
      texts = scoring.completion_texts(branches, tokenizer)
      for row, (completion,) in zip(
        open_rows[first : first + len(batch.sources)], texts, strict=True
      ):
        _take_turn(row, completion, mode, turn, template, tokenizer)
  return [row.attempt(trajectories[row.problem]) for row in everything]


@dataclasses.dataclass
class _Solution:
  """An attempt under way: its context so far and what was written."""

  problem: int
  sample: int
  tokens: list[int]
  texts: list[str] = dataclasses.field(default_factory=list)
  actions: list[str] = dataclasses.field(default_factory=list)
  ending: str = ""

  def attempt(self, trajectory: Trajectory) -> Attempt:
    solution = "\n".join(self.actions)
    is_correct = trajectory.answer is not None and bool(
      answers.answer_reward(solution, trajectory.answer)
    )
    return Attempt(
      self.problem,
      self.sample,
      tuple(self.texts),
      is_correct,
      self.ending or "turn limit",
    )


def _turn_record(row, trajectory, turn, task, template, tokenizer):
  name = f"{trajectory.id}/{task}/{turn}/{row.sample}"
  point = BranchPoint(
    step=turn,
    at=len(row.tokens),
    stem=np.array(
      encode_segment(tokenizer, template.stem(task, turn + 1)), np.int32
    ),
    target="",
    target_tokens=np.zeros(0, np.int32),
    point_id=zlib.crc32(name.encode()),
  )
  return Trunk(
    trajectory=trajectory,
    tokens=np.array(row.tokens, np.int32),
    points=(point,),
  )


def _take_turn(row, completion, mode, turn, template, tokenizer):
  row.texts.append(completion.text)
  parsed = format.split_lenient(completion.text)
  if not parsed.action:
    row.ending = "no action"
    return
  row.actions.append(parsed.action)
  if mode == "solve" or _is_final(parsed.action):
    row.ending = "answered"
    return
  segment = template.step(Step(text=parsed.action), turn + 1)
  row.tokens.extend(encode_segment(tokenizer, segment))


def _is_final(action: str) -> bool:
  return "####" in action or answers.last_boxed(action) is not None


def summarise(
  attempts: Sequence[Attempt], problems: int, samples: int
) -> dict[str, Estimate]:
  """Accuracy over problems: avg@n, and unbiased pass@k for k = 2, 4, ... n.

  With one sample per problem the only entry is "accuracy".
  """
  correct = np.zeros(problems, np.int64)
  for attempt in attempts:
    correct[attempt.problem] += attempt.is_correct
  if samples == 1:
    return {"accuracy": bootstrap(correct)}
  summary = {f"avg@{samples}": bootstrap(correct / samples)}
  k = 2
  while k <= samples:
    terms = [pass_at_k(int(c), samples, k) for c in correct]
    summary[f"pass@{k}"] = bootstrap(terms)
    k *= 2
  return summary
