# SPDX-License-Identifier: Apache-2.0
"""What a stage of training is, and what all stages of a run share.

A stage says what the batch of a step is and how good parameters are; the loop
around it (train.py) is the same for all. The stages are in stage_sft.py and
stage_rl.py.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.config import Config
from srl_jax.data import batching, pipeline, prompts
from srl_jax.data.templates import Task, Template
from srl_jax.data.trunks import Trunk, TrunkConfig, build_trunks
from srl_jax.models import LanguageModel
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.train.memory import Program
from srl_jax.trajectory import Trajectory
from srl_jax.update.batch import LossFn, MicroBatch
from srl_jax.update.updater import TrainState, Updater


@dataclasses.dataclass(frozen=True)
class Run:
  """What all stages of a run share."""

  config: Config
  mesh: jax.sharding.Mesh
  policy: LanguageModel
  tokenizer: Tokenizer
  template: Template
  pretrain: list[Trajectory]
  train: list[Trajectory]
  valid: list[Trajectory]
  test: list[Trajectory]
  _samplers: dict[tuple[SamplingConfig, Task], Sampler] = dataclasses.field(
    default_factory=dict
  )

  def key(self, *purpose: str | int) -> jax.Array:
    """The random key of a purpose; nothing is carried from step to step."""
    key = jax.random.key(self.config.seed)
    for part in purpose:
      number = zlib.crc32(part.encode()) if isinstance(part, str) else part
      key = jax.random.fold_in(key, number)
    return key

  def sampler(self, sampling: SamplingConfig, task: Task) -> Sampler:
    """The sampler that stops where the template says; compiled only once."""
    if (sampling, task) not in self._samplers:
      self._samplers[sampling, task] = self._make_sampler(sampling, task)
    return self._samplers[sampling, task]

  @property
  def sampling_policy(self) -> LanguageModel:
    """The policy with the rules of the rollout."""
    return LanguageModel(self.policy.config, self.config.rollout_rules)

  def _make_sampler(self, sampling, task):
    return Sampler(
      self.sampling_policy,
      sampling,
      stop_ids=tuple(map(self.tokenizer.special_id, self.template.stop(task))),
      pad_id=self.tokenizer.pad_id,
      mesh=self.mesh,
      rules=self.config.rollout_rules,
    )

  def put(self, batch: Any) -> Any:
    """Places this process's rows on the mesh."""
    return sharding.put_batch(batch, self.mesh, self.config.rules)


class Work(NamedTuple):
  """The batch of a step, on the devices, and what is known of its making."""

  batches: list[MicroBatch]
  values: dict[str, float]


class Dispatched(NamedTuple):
  """What is known of a step that may still be running.

  Attributes:
    values: metrics that are known already.
    metrics: lists of metrics on the devices; each list is reduced as a whole.
  """

  values: dict[str, float]
  metrics: list[list[Any]]


class Stage(Protocol):
  """What the loop needs of a stage."""

  description: str
  passes: int
  columns: tuple[str, ...]
  loss_fn: LossFn
  uses_reference: bool

  def planned(self, updater: Updater) -> Iterator[Program]:
    """The programs of a step, before they run."""

  def take_step(
    self,
    updater: Updater,
    state: TrainState,
    step: int,
    reference: Any,
  ) -> tuple[TrainState, Dispatched]:
    """Starts a step (all its passes); consumes data and the state."""

  def validate(self, params: Any) -> tuple[float, dict[str, float]]:
    """How good parameters are (more is better), and metrics to log."""

  def check(self, values: dict[str, float]) -> None:
    """Raises RuntimeError if a finished step's metrics are alarming."""

  def programs(self) -> int:
    """How many programs are compiled, apart from the update's."""

  def get_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON-able state of the data stream, and the pool."""

  def set_state(self, data: dict[str, Any], pool: dict[str, Any]) -> None:
    """Goes on where get_state was called."""

  def close(self) -> None:
    """Ends worker processes."""


def update_on(
  work: Work,
  updater: Updater,
  state: TrainState,
  *,
  step: int,
  passes: int,
  reference: Any,
) -> tuple[TrainState, Dispatched]:
  """Starts `passes` optimizer steps, each on the whole batch."""
  batches, of_batches, of_steps = work.batches, [], []
  for turn in range(passes):
    if turn == 1:
      # The first pass has moved the parameters away from the sampler's.
      batches = [b._replace(is_fresh_NK=b.is_fresh_NK & False) for b in batches]
    state, metrics, of_step = updater.update(
      state, batches, step * passes + turn, reference
    )
    of_batches += metrics
    of_steps.append(of_step)
  values = work.values | {"micro_batches": len(of_batches)}
  return state, Dispatched(values, [of_batches, of_steps])


class StageData:
  """The tokenised trajectories of a stage and the stream of its batches."""

  def __init__(
    self,
    run: Run,
    name: str,
    trajectories: Sequence[Trajectory],
    trunk_config: TrunkConfig,
    *,
    batch_size: int,
    validation_trunks: int,
    new_tokens: int = 0,
  ):
    """Builds the trunks and checks that they fit the model.

    Args:
      run: the run.
      name: of the stage, for messages.
      trajectories: what to train on.
      trunk_config: which branch points are made of a trajectory.
      batch_size: trunks per batch, all processes together.
      validation_trunks: how many to validate on; 0 for all.
      new_tokens: what a completion may add to its stem; 0 for the expert's
        own targets.

    Raises:
      ValueError: nothing is left to train on, a context is longer than the
        model's, or the chat template changes the text of a prompt.
    """
    train = build_split(run, trajectories, trunk_config, "train")
    _check_prompts(run, name, train, trunk_config.task)
    valid = build_split(run, run.valid, trunk_config, "valid")
    self.train, self.valid = train, valid[: validation_trunks or None]
    widest = batching.widths([*train, *self.valid])
    self.widths = widest._replace(
      points=min(trunk_config.points_per_trunk or widest.points, widest.points)
    )
    self.valid_widths = widest._replace(
      points=batching.widths(self.valid).points
    )
    branch = widest.stem + new_tokens if new_tokens else widest.target
    _check_context(run, name, widest.trunk + branch)
    self.batches = pipeline.make_batches(
      train,
      seed=run.config.seed,
      batch_size=batch_size,
      trunk_width=widest.trunk,
      points=self.widths.points,
      stem_width=widest.stem,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )


# About a second for prompts of 2,000 tokens; srl_jax.data.prepare compares all.
_PROMPTS_COMPARED = 64


def build_split(
  run: Run,
  trajectories: Sequence[Trajectory],
  trunk_config: TrunkConfig,
  split: str,
) -> list[Trunk]:
  """Tokenises a split; an error says why when nothing is left."""
  trunks, report = build_trunks(
    trajectories, run.template, run.tokenizer, trunk_config
  )
  if not trunks:
    reasons = {reason: len(ids) for reason, ids in report.drops.items()}
    raise ValueError(
      f"no branch point is left in the {split} split ({len(trajectories)} "
      f"trajectories; dropped: {reasons}); raise max_trunk_tokens or "
      f"max_target_tokens, or set c.data.{split}_size"
    )
  return trunks


def _check_prompts(
  run: Run,
  name: str,
  trunks: Sequence[Trunk],
  task: Task,
) -> None:
  compared = prompts.compare(
    trunks,
    run.template,
    run.tokenizer,
    task,
    limit=_PROMPTS_COMPARED,
  )
  if jax.process_index() == 0:
    for warning in compared.warnings():
      print(f"warning: {name}: {warning}", flush=True)


def _check_context(run: Run, name: str, tokens: int) -> None:
  limit = run.policy.config.max_positions
  if tokens > limit:
    raise ValueError(
      f"{name} needs a context of {tokens} tokens and the model was made for "
      f"{limit} (c.model.max_positions); set c.{name}.trunks."
      "max_trunk_tokens to drop the longest contexts, or lower max_new_tokens "
      "(in sft: max_target_tokens)"
    )


def check_multiple(
  run: Run, field: str, trunks: int, rules: sharding.ShardingRules
) -> None:
  """Raises ValueError unless trunks divide over devices and processes."""
  devices = sharding.batch_devices(run.mesh, rules)
  multiple = int(np.lcm(jax.process_count(), devices))
  if trunks % multiple:
    raise ValueError(
      f"c.{field}={trunks} does not divide over {devices} devices (mesh "
      f"{dict(run.mesh.shape)}) and {jax.process_count()} processes; make it a "
      f"multiple of {multiple}, or change c.mesh"
    )


def local_part(batch: Any, rows: int) -> Any:
  """This process's rows of host arrays, filled up to `rows` with zeros."""
  part = rows // jax.process_count()
  first = jax.process_index() * part

  def cut(x):
    tail = np.zeros((rows - len(x), *x.shape[1:]), x.dtype)
    return np.concatenate([x, tail])[first : first + part]

  return jax.tree.map(cut, batch)


def check_finite(values: dict[str, float]) -> None:
  """Raises RuntimeError when the gradient has overflowed."""
  if not np.isfinite(values["grad_norm"]):
    raise RuntimeError(
      f"the gradient norm is {values['grad_norm']}: the loss overflowed; lower "
      "optim.learning_rate, or set c.model.dtype='float32' to find out where"
    )
