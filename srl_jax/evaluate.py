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
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from srl_jax import scoring, sharding
from srl_jax.data import batching
from srl_jax.data.batching import TrunkBatch, Widths
from srl_jax.data.schema import Step, Trajectory
from srl_jax.data.templates import Template, encode_segment
from srl_jax.data.trunks import BranchPoint, TrunkRecord
from srl_jax.rewards import Scorer, answers, format
from srl_jax.rollout import SamplingConfig
from srl_jax.sampler import Sampler
from srl_jax.tokenizers import Tokenizer

Mode = Literal["turns", "solve"]
_RESAMPLES = 2000
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
class Estimate:
  """A mean with its 95% bootstrap interval."""

  value: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


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


def bootstrap(
  numerators: Sequence[float],
  denominators: Sequence[float] | None = None,
  *,
  seed: int = 0,
) -> Estimate:
  """Ratio of sums with a percentile bootstrap interval over its terms.

  Args:
    numerators: one term per problem (or trajectory).
    denominators: likewise; ones if absent, which makes it a mean.
    seed: of the resampling.
  """
  top = np.asarray(numerators, np.float64)
  bottom = np.ones_like(top) if denominators is None else denominators
  bottom = np.asarray(bottom, np.float64)
  if not bottom.sum():
    return Estimate(math.nan, math.nan, math.nan)
  rng = np.random.default_rng(seed)
  index = rng.integers(len(top), size=(_RESAMPLES, len(top)))
  resampled = top[index].sum(1) / np.maximum(bottom[index].sum(1), 1e-12)
  low, high = np.quantile(resampled, [0.025, 0.975])
  return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def pass_at_k(correct: int, samples: int, k: int) -> float:
  """Unbiased estimate of pass@k (Chen et al. 2021, Eq. 1).

  Example: 1 of 4 samples correct gives pass@2 = 1 - C(3,2)/C(4,2) = 0.5; the
  biased 1 - (1 - 1/4)^2 would be 0.4375.
  """
  wrong = samples - correct
  return 1.0 - math.comb(wrong, k) / math.comb(samples, k)


def evaluate_steps(
  sampler: Sampler,
  params: Any,
  records: Sequence[TrunkRecord],
  *,
  key: jax.Array,
  tokenizer: Tokenizer,
  scorer: Scorer,
  widths: Widths,
  rows_per_batch: int,
) -> dict[str, Estimate]:
  """Samples the next step at every branch point and compares it.

  Args:
    sampler: at the temperature and group size to measure.
    params: parameters.
    records: trunks of task "step"; all processes give the same ones.
    key: random key of the samples.
    tokenizer: decodes.
    scorer: the reward that is reported.
    widths: of the padded batches; `batching.widths(records)` or more.
    rows_per_batch: trunks decoded together.

  Returns:
    "reward", "similarity" (0 where the format is broken), "exact" (the action
    is the expert's, character by character), "format_failure", and
    "similarity_step_1", ... by step depth; intervals over trajectories.
  """
  sums: dict[str, np.ndarray] = {}

  def add(name, row, value):
    terms = sums.setdefault(name, np.zeros((2, len(records))))
    terms[:, row] += value, 1

  for first, batch, branches in _sampled(
    sampler, params, records, key, widths, rows_per_batch
  ):
    scores = scoring.score_branches(batch, branches, tokenizer, scorer)
    for n, record in enumerate(batch.records):
      row = first + n
      for k, point in enumerate(record.points):
        for g in range(scores.reward_NKG.shape[-1]):
          similarity = scores.similarity_NKG[n, k, g]
          is_broken = bool(np.isnan(similarity))
          similarity = 0.0 if is_broken else float(similarity)
          add("reward", row, float(scores.reward_NKG[n, k, g]))
          add("similarity", row, similarity)
          add("exact", row, similarity == 1.0)
          add("format_failure", row, is_broken)
          add(f"similarity_step_{point.step + 1}", row, similarity)
  names = sorted(sums, key=lambda name: (name.count("_"), len(name), name))
  return {name: bootstrap(*sums[name]) for name in names}


def _sampled(sampler, params, records, key, widths, rows_per_batch):
  """Yields (index of the first record, batch, host branches of all rows)."""
  for first in range(0, len(records), rows_per_batch):
    batch = batching.collate(
      records[first : first + rows_per_batch],
      trunk_width=widths.trunk,
      points=widths.points,
      stem_width=widths.stem,
    )
    branches = sample_all(sampler, params, batch, key, rows_per_batch)
    yield first, batch, branches


def sample_all(
  sampler: Sampler, params: Any, batch: TrunkBatch, key: jax.Array, rows: int
) -> Any:
  """Samples a batch that every process holds whole; so are the results.

  Args:
    sampler: the compiled sampler.
    params: parameters.
    batch: N trunks, at most `rows`.
    key: random key.
    rows: the batch is filled up with empty rows to this number, rounded up
      to what the mesh needs.

  Returns:
    Branches of the N trunks as numpy arrays.
  """
  count = len(batch.records)
  processes = jax.process_count()
  multiple = math.lcm(processes, sampler.batch_devices)
  fill = _rounded_up(max(rows, count), multiple) - count

  def spread(x, fill_value):
    tail = np.full((fill, *x.shape[1:]), fill_value, x.dtype)
    return np.concatenate([x, tail])[jax.process_index() :: processes]

  trunks = batch.trunks
  filled = type(trunks)(*(spread(x, 0) for x in trunks))
  filled = filled._replace(stem_length_NK=spread(trunks.stem_length_NK, 1))
  branches = sharding.gather_rows(sampler.sample(params, filled, key))
  return type(branches)(*(x[:count] for x in branches))


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
    records = [
      _turn_record(
        row, trajectories[row.problem], turn, task, template, tokenizer
      )
      for row in open_rows
    ]
    widths = batching.widths(records)
    widths = widths._replace(trunk=_rounded_up(widths.trunk, _BUCKET))
    for first, batch, branches in _sampled(
      sampler, params, records, key, widths, config.rows_per_batch
    ):
      texts = scoring.completion_texts(branches, tokenizer)
      for row, (completion,) in zip(
        open_rows[first : first + len(batch.records)], texts, strict=True
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
    instance=zlib.crc32(name.encode()),
  )
  return TrunkRecord(
    trajectory_id=trajectory.id,
    tokens=np.array(row.tokens, np.int32),
    points=(point,),
    problem=trajectory.problem,
    answer=trajectory.answer,
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


def _rounded_up(number: int, multiple: int) -> int:
  return -(-number // multiple) * multiple
