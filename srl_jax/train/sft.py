# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning on what the expert wrote, step by step or in one go.

The warm start of SRL, and a baseline.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from srl_jax import progress, sharding, strict
from srl_jax.data import batching
from srl_jax.data.trunks import ExpertTrunkConfig, Trunk, check_solutions
from srl_jax.reductions import reduce_metrics
from srl_jax.sharding import abstract
from srl_jax.train import memory
from srl_jax.train.batch_shapes import micro_batch_trunks, update_shape
from srl_jax.train.data import StageData, load_data
from srl_jax.train.memory import Program
from srl_jax.train.stage import (
  Batch,
  Dispatched,
  Run,
  check_finite,
  update_on,
)
from srl_jax.types import make_branches
from srl_jax.update import optim
from srl_jax.update.batch import Experience, MicroBatch
from srl_jax.update.groups import make_groups
from srl_jax.update.grpo import sft_loss
from srl_jax.update.optim import OptimConfig
from srl_jax.update.pack_shapes import fewest_positions
from srl_jax.update.packing import PackShape, pack
from srl_jax.update.updater import TrainState, Updater, compiled_count

# What metrics of whole solutions are called, if they alternate with steps.
_OF_SOLUTIONS = {
  name: f"solve_{name}" for name in ("loss", "accuracy", "confident_share")
}
# Trunks whose lengths say how many lanes are best.
_TRUNKS = 64


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """A stage of supervised fine-tuning on expert steps or solutions.

  Attributes:
    update_steps: number of update steps, one per batch.
    trunks_per_batch: trunks per batch: one per trajectory, or with
      trunks.context_turns one per step.
    trunks_per_micro_batch: trunks whose gradient is computed at a time, by all
      processes together; raised to a multiple of the devices.
    validate_every: update steps between validations (cross-entropy), the best
      of which gives the stage's result; 0 validates at the end only.
    validation_trajectories: trajectories per validation; 0 for all.
    max_logits: approximate number of logits that a device holds at a time; 0
      holds all at once. The result is the same.
    trunks: which branch points are made of a trajectory.
    split: "pretrain" keeps the trajectories of "train" for the RL stages.
    alternate_solve: every other update step trains on whole solutions (task
      "solve") instead, for a model that shall do both. Their metrics are
      `solve_loss` and so on; `validation_loss`, which chooses the parameters,
      is over the target tokens of both, of which solutions have more.
    optim: the optimizer.
  """

  update_steps: int = 100
  trunks_per_batch: int = 64
  trunks_per_micro_batch: int = 16
  validate_every: int = 0
  validation_trajectories: int = 64
  max_logits: int = 1 << 26
  trunks: ExpertTrunkConfig = ExpertTrunkConfig(include_thoughts=True)
  split: Literal["pretrain", "train"] = "train"
  alternate_solve: bool = False
  optim: OptimConfig = OptimConfig(
    learning_rate=5e-6, schedule="cosine", warmup_ratio=0.3
  )

  def __post_init__(self):
    strict.check_literals(self)
    strict.check_numbers(
      self,
      update_steps="[1, )",
      trunks_per_batch="[1, )",
      trunks_per_micro_batch="[1, )",
      validate_every="[0, )",
      validation_trajectories="[0, )",
      max_logits="[0, )",
    )
    if self.alternate_solve and self.trunks.task == "solve":
      raise ValueError(
        "sft.alternate_solve=True alternates single steps with whole "
        "solutions, and sft.trunks.task='solve' would train on each batch of "
        "these twice; set task='step', or alternate_solve=False"
      )
    if self.trunks.task == "solve":
      check_solutions(self.trunks, "sft")


class SftStage:
  """Cross-entropy on the expert's targets, branch by branch."""

  description = ""
  columns = (
    "loss {loss:.4f}",
    "solve loss {solve_loss:.4f}",
    "{tokens_per_s:,.0f} tokens/s",
  )
  uses_reference = False

  def __init__(
    self,
    run: Run,
    name: str,
    config: SftConfig,
    data: Sequence[StageData] = (),
  ):
    """Loads the data, unless `data` stands for them, one for each task.

    Raises:
      ValueError: the settings do not fit data, model or mesh.
    """
    self._run = run
    # The batch is a multiple of it.
    config = dataclasses.replace(
      config,
      trunks_per_micro_batch=micro_batch_trunks(
        run, config.trunks_per_micro_batch
      ),
    )
    self.name, self.config = name, config
    tasks = [config.trunks]
    if config.alternate_solve:
      tasks.append(dataclasses.replace(config.trunks, task="solve"))
    # Tasks take turns, because a batch of both would be padded to the longer.
    self._data = list(data) or [
      load_data(
        run,
        name,
        config.split,
        trunk_config,
        batch_field="trunks_per_batch",
        batch_size=config.trunks_per_batch,
        validation_trajectories=config.validation_trajectories,
      )
      for trunk_config in tasks
    ]
    for of_task, trunks in zip(self._data, tasks, strict=True):
      if trunks.include_thoughts and trunks.task == "solve":
        _warn_of_no_thought(name, of_task.train)
    self._shapes = [self._shape(of_task) for of_task in self._data]
    loss_fn = sft_loss(run.policy, max_logits=config.max_logits)
    self._loss_fn = loss_fn
    self._metrics = jax.jit(
      lambda params, batch: loss_fn(params, batch, None)[1]
    )

  def prepare(self, params: Any) -> None:
    config = self.config
    self.updater = Updater(
      self._loss_fn,
      optim.make_optimizer(config.optim, config.update_steps),
      optim.learning_rate(config.optim, config.update_steps),
      params,
      self._run.mesh,
    )

  def plan(self) -> Iterator[Program]:
    run = self._run

    def micro_batch(number: int):
      data, shape = self._data[number], self._shapes[number]
      nothing = expert_experience(data.empty_batch(), data.widths.target)
      [one] = pack_experience(nothing, shape)
      return abstract.batch(one, shape.rows, run.mesh, run.rules)

    return memory.update_programs(
      self.updater,
      map(micro_batch, range(len(self._data))),
      mesh=run.mesh,
      name=self.name,
      rows_multiple=sharding.batch_devices(run.mesh, run.rules),
      narrower="trunks.points_per_trunk",
    )

  def take_update(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    state, dispatched = update_on(
      self.next_batch(update_step),
      self.updater,
      state,
      update_step=update_step,
      passes=1,
      reference=reference,
    )
    if self._task_of(update_step):
      dispatched = dispatched._replace(renamed=_OF_SOLUTIONS)
    return state, dispatched

  def _task_of(self, update_step: int) -> int:
    """Whose turn it is: 0 is that of the configured task."""
    return update_step % len(self._data)

  def next_batch(self, update_step: int) -> Batch:
    """Makes the batch of an update step; consumes data."""
    number = self._task_of(update_step)
    data = self._data[number]
    experience = expert_experience(next(data.batches), data.widths.target)
    return Batch(self._put(number, experience), {})

  def _put(self, number, experience):
    packed = pack_experience(experience, self._shapes[number])
    return map(self._run.put, packed)

  def _shape(self, data):
    """The shape of micro-batches that packs the expert's steps best.

    Without trajectories, each has a lane.
    """
    widths = data.widths
    shape = update_shape(
      self._run, self.config.trunks_per_micro_batch, widths.points, 1.0
    )
    rng = np.random.default_rng(0)
    drawn = [data.train[i] for i in rng.permutation(len(data.train))[:_TRUNKS]]
    if not drawn:
      return shape
    trunk_cells = [
      (number, len(point.stem) + len(point.target_tokens) - 1)
      for number, trunk in enumerate(drawn)
      for point in rng.permutation(trunk.points)[: widths.points]
    ]
    trunk_id_M, cells_M = np.transpose(trunk_cells)
    return fewest_positions(
      shape,
      trunk_id_M,
      cells_M,
      trunk_width=widths.trunk,
      lane_width=widths.target - 1,
    )

  def validate(
    self, params: Any, update_step: int
  ) -> tuple[float, dict[str, float]]:
    del update_step
    rows = self.config.trunks_per_batch
    parts_by_task: list[list[Any]] = [[] for _ in self._data]
    for number, data in enumerate(self._data):
      for first in range(0, len(data.valid), rows):
        batch = batching.collate(
          data.valid[first : first + rows],
          trunk_width=data.widths.trunk,
          points=data.valid_widths.points,
          stem_width=data.widths.stem,
        )
        experience = expert_experience(batch, data.widths.target)
        for part in self._put(number, experience):
          parts_by_task[number].append(self._metrics(params, part))
    values = reduce_metrics(list(itertools.chain(*parts_by_task)))
    found = {
      "validation_loss": values["loss"],
      "validation_accuracy": values["accuracy"],
    }
    if self.config.alternate_solve:
      for task, parts in zip(("step", "solve"), parts_by_task, strict=True):
        found[f"validation_{task}_loss"] = reduce_metrics(parts)["loss"]
    return -values["loss"], found

  def check(self, values: dict[str, float]) -> None:
    check_finite(values)

  def compiled_count(self) -> int:
    return compiled_count(self._metrics)

  def get_state(self) -> tuple[dict[str, Any], Any]:
    streams = [data.batches.get_state() for data in self._data]
    return {"streams": streams}, {}

  def set_state(self, data: dict[str, Any], pool: Any) -> None:
    del pool
    streams = data["streams"]
    if len(streams) != len(self._data):
      raise ValueError(
        f"cannot resume the data stream: the stage had {len(streams)} of them "
        f"when it was saved and has {len(self._data)} now; set "
        f"alternate_solve={len(streams) > 1} as it was, or start in a new "
        "working directory"
      )
    for own, state in zip(self._data, streams, strict=True):
      own.batches.set_state(state)

  def close(self) -> None:
    pass


def expert_experience(batch: batching.TrunkBatch, width: int) -> Experience:
  """Branches as the expert wrote them, one per branch point."""
  tokens_NKC, length_NK = batching.target_tokens(batch, width)
  return Experience(
    trunks=batch.trunks,
    branches=make_branches(
      tokens_NRC=tokens_NKC,
      stem_length_NR=batch.trunks.stem_length_NK,
      length_NR=length_NK,
      sampler_logp_NRC=np.zeros(tokens_NKC.shape, np.float32),
      stopped_NR=length_NK > 0,
    ),
    reward_NKG=np.zeros((*length_NK.shape, 1), np.float32),
  )


def pack_experience(
  experience: Experience, shape: PackShape
) -> Iterator[MicroBatch]:
  """Packs the expert's branches, as `packing.pack` does."""
  trunks, branches, reward_NKG = experience
  groups = make_groups(
    trunks,
    branches,
    reward_NKG,
    np.zeros(trunks.is_real_NK.shape, np.int32),
    trunks.is_real_NK,
    update_step=0,
    round_index=0,
  )
  # No sampler drew them, so none is fresh.
  return pack(groups, shape, update_step=1)


def _warn_of_no_thought(name: str, trunks: Sequence[Trunk]) -> None:
  """Says how many whole solutions teach to answer without a thought."""
  has_thought = [any(s.thought for s in t.trajectory.steps) for t in trunks]
  missing = has_thought.count(False)
  if missing:
    progress.warn(
      f"{name}: {missing} of {len(has_thought)} solutions have no thought, "
      f"though c.{name}.trunks.include_thoughts is True: they teach an answer "
      "without a think block; add thoughts, or set include_thoughts=False"
    )
