# SPDX-License-Identifier: Apache-2.0
"""The data of a stage: its trunks, checked, and the stream of its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from srl_jax import progress
from srl_jax.data import batching, pipeline, prompts
from srl_jax.data.templates import Task
from srl_jax.data.trunks import (
  Trunk,
  TrunkConfig,
  build_trunks,
  of_first_trajectories,
)
from srl_jax.device_rewards.reward import target_width
from srl_jax.train.stage import Run
from srl_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class StageData:
  """The tokenised trajectories of a stage and the stream of its batches.

  Attributes:
    widths: of the padded batches that are trained on.
    valid_widths: of those that are validated on.
    train: trunks to train on.
    valid: trunks to validate on.
    target_chars: characters of the longest target, for rewards on the device.
    batches: the endless stream; None where programs are only compiled.
  """

  widths: batching.Widths
  valid_widths: batching.Widths
  target_chars: int
  train: Sequence[Trunk] = ()
  valid: Sequence[Trunk] = ()
  batches: pipeline.Batches | None = None

  def empty_batch(self) -> batching.TrunkBatch:
    """A batch of no rows, which has the shapes and dtypes of all others."""
    return batching.collate(
      [],
      trunk_width=self.widths.trunk,
      points=self.widths.points,
      stem_width=self.widths.stem,
    )


def load_data(
  run: Run,
  name: str,
  split: str,
  trunk_config: TrunkConfig,
  *,
  batch_field: str,
  batch_size: int,
  validation_trajectories: int,
  new_tokens: int = 0,
) -> StageData:
  """Tokenises the trajectories of a stage and checks that they fit the model.

  Args:
    run: the run.
    name: of the stage, for messages.
    split: the trajectories to train on: "train" or "pretrain".
    trunk_config: which branch points are made of a trajectory.
    batch_field: field of the stage that says `batch_size`, for messages.
    batch_size: trunks per batch, all processes together.
    validation_trajectories: how many to validate on; 0 for all.
    new_tokens: what a completion may add to its stem; 0 for the expert's own
      targets.

  Raises:
    ValueError: nothing is left to train on, a context is longer than the
      model's, or the chat template changes the text of a prompt.
  """
  trajectories = getattr(run, split)
  train = build_split(run, trajectories, trunk_config, split)
  if batch_size > len(train):
    raise ValueError(
      f"c.{name}.{batch_field}={batch_size} trunks are drawn together, and "
      f"{len(train)} are left to train on (of {len(trajectories)} "
      f"trajectories); set c.{name}.{batch_field} to {len(train)} or less "
      "(and what must divide it): few data are drawn again and again, in "
      "another order each time; or use more data"
    )
  _check_prompts(run, name, train, trunk_config.task)
  # Solutions are judged from their start, also by the reverse curriculum.
  from_start = dataclasses.replace(trunk_config, starts="problem")
  valid = of_first_trajectories(
    build_split(run, run.valid, from_start, "valid"), validation_trajectories
  )
  widest = batching.widths([*train, *valid])
  points = min(trunk_config.points_per_trunk or widest.points, widest.points)
  branch = widest.stem + new_tokens if new_tokens else widest.target
  _check_context(run, name, widest.trunk + branch)
  batches = pipeline.make_batches(
    train,
    seed=run.seed,
    batch_size=batch_size,
    trunk_width=widest.trunk,
    points=points,
    stem_width=widest.stem,
  )
  return StageData(
    widths=widest._replace(points=points),
    target_chars=target_width([*train, *valid]),
    valid_widths=widest._replace(points=batching.widths(valid).points),
    train=train,
    valid=valid,
    batches=batches,
  )


# About a second for prompts of 2,000 tokens; srl_jax.data.prepare compares all.
_PROMPTS_COMPARED = 64


def build_split(
  run: Run,
  trajectories: Sequence[Trajectory],
  trunk_config: TrunkConfig,
  split: str,
) -> list[Trunk]:
  """Tokenises a split and says which branch points are dropped, and why.

  Raises:
    ValueError: nothing is left.
  """
  trunks, report = build_trunks(
    trajectories, run.template, run.tokenizer, trunk_config
  )
  if not trunks:
    reasons = {reason: len(ids) for reason, ids in report.drops.items()}
    raise ValueError(
      f"no branch point is left in the {split} split ({len(trajectories)} "
      f"trajectories; dropped: {reasons}); {_cures(split, reasons)}"
    )
  every = report.points + sum(map(len, report.drops.values()))
  for reason, names in report.drops.items():
    line = (
      f"{split}: {len(names):,} of {every:,} branch points are dropped:"
      f" {reason}; the first is {names[0]}"
    )
    # Stages share splits, and the test split is measured at many moments.
    if line not in run.said:
      progress.say(line)
    run.said.add(line)
  return trunks


# What to do about each reason of trunks.py to drop a branch point.
_CURES = {
  "max_trunk_tokens": "raise max_trunk_tokens",
  "max_target_tokens": "raise max_target_tokens",
  "no thought": "give steps a 'thought', or set include_thoughts=False",
  "beyond the title": "give steps a text, or set step_title_hint=False",
  "think tag": "move what is between the tags to the step's 'thought'",
  "context only": "set is_target or c.data.target_tools for some steps",
  "last_step": "set last_step='include'",
  "the tokenizer has no tokens": "take another tokenizer",
}


def _cures(split: str, reasons: Iterable[str]) -> str:
  every = "; ".join(reasons)
  cures = [cure for part, cure in _CURES.items() if part in every]
  return "; ".join(cures) or f"set c.data.{split}_size"


def _check_prompts(
  run: Run, name: str, trunks: Sequence[Trunk], task: Task
) -> None:
  compared = prompts.compare(
    trunks, run.template, run.tokenizer, task, limit=_PROMPTS_COMPARED
  )
  for warning in compared.warnings():
    progress.warn(f"{name}: {warning}")


def _check_context(run: Run, name: str, tokens: int) -> None:
  limit = run.policy.config.max_positions
  if tokens > limit:
    raise ValueError(
      f"{name} needs a context of {tokens} tokens and the model was made for "
      f"{limit} (c.model.max_positions); set c.{name}.trunks."
      "max_trunk_tokens to drop the longest contexts, or lower max_new_tokens "
      "(in sft: max_target_tokens)"
    )
