# SPDX-License-Identifier: Apache-2.0
"""What a stage of training is, and what all stages of a run share.

A stage says what the batch of an update step is and how good parameters are;
the loop around it (loop.py) is the same for all. The stages are in sft.py,
rl.py and episodes.py.
"""

from __future__ import annotations

import dataclasses
import pathlib
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.checkpoint import CheckpointConfig
from srl_jax.data.templates import Task, Template
from srl_jax.device_rewards.reward import DeviceRewardConfig
from srl_jax.metrics import Column
from srl_jax.models import LanguageModel
from srl_jax.processes.failures import RecurringError
from srl_jax.rewards import WorkersConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.record import Recorder, Split
from srl_jax.rollout.sampler import Sampler
from srl_jax.rollout.stream import Stream
from srl_jax.tokenizers import Tokenizer
from srl_jax.trackers.trackers import Trackers
from srl_jax.train.memory import Program
from srl_jax.train.profile import ProfileConfig
from srl_jax.trajectory import Trajectory
from srl_jax.update.batch import MicroBatch
from srl_jax.update.updater import TrainState, Updater


class NothingLeftError(RuntimeError):
  """A stage has trained on all that its rewards tell apart."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What all stages of a run share.

  Attributes:
    seed: names every random number of the run.
    mesh: the devices.
    rules: mesh axes of each logical axis, at rest and in the update.
    rollout_rules: the same while sampling.
    policy: the model, with `rules`.
    tokenizer: the tokenizer.
    template: the wording of prompts.
    weights: where the first stage starts: "random", or a checkpoint folder.
    files: the tokenizer's files, which belong beside the weights of a model.
    pretrain: trajectories set aside for a warm start.
    train: trajectories to train on.
    valid: trajectories to choose checkpoints with.
    test: trajectories for the final number.
    reward_workers: processes that compute rewards on the host.
    device_reward: whether the device computes rewards.
    checkpoint: how often to save.
    log_every: update steps between console lines.
    recorder: keeps rollouts for people to look at; None keeps none.
    trackers: show metrics and samples to people.
    profile: which update steps are profiled.
    said: lines about the data that were printed, and are not said again.
  """

  seed: int
  mesh: jax.sharding.Mesh
  rules: sharding.ShardingRules
  rollout_rules: sharding.ShardingRules
  policy: LanguageModel
  tokenizer: Tokenizer
  template: Template
  weights: str = "random"
  files: tuple[pathlib.Path, ...] = ()
  pretrain: Sequence[Trajectory] = ()
  train: Sequence[Trajectory] = ()
  valid: Sequence[Trajectory] = ()
  test: Sequence[Trajectory] = ()
  reward_workers: WorkersConfig = WorkersConfig()
  device_reward: DeviceRewardConfig = DeviceRewardConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  log_every: int = 1
  recorder: Recorder | None = None
  trackers: Trackers = dataclasses.field(default_factory=Trackers)
  profile: ProfileConfig = ProfileConfig()
  said: set[str] = dataclasses.field(default_factory=set)
  _samplers: dict[tuple[SamplingConfig, Task], Sampler] = dataclasses.field(
    default_factory=dict
  )

  @property
  def sampling_policy(self) -> LanguageModel:
    """The model, with `rollout_rules`."""
    return LanguageModel(self.policy.config, self.rollout_rules)

  def key(self, *purpose: str | int) -> jax.Array:
    """The random key of a purpose; no key is carried between update steps."""
    key = jax.random.key(self.seed)
    for part in purpose:
      number = zlib.crc32(part.encode()) if isinstance(part, str) else part
      key = jax.random.fold_in(key, number)
    return key

  def sampler(self, sampling: SamplingConfig, task: Task) -> Sampler:
    """The sampler that stops where the template says; compiled only once."""
    if (sampling, task) not in self._samplers:
      self._samplers[sampling, task] = self._make_sampler(sampling, task)
    return self._samplers[sampling, task]

  def stream(
    self,
    params: Any,
    task: Task,
    *,
    rows: int,
    slots: int,
    key: jax.Array,
    **more,
  ) -> Stream:
    """A stream that stops where the template says; see `Stream`."""
    return Stream(
      self.sampling_policy,
      params,
      rows=rows,
      slots=slots,
      stop_ids=self.stop_ids(task),
      mesh=self.mesh,
      rules=self.rollout_rules,
      key=key,
      **more,
    )

  def stop_ids(self, task: Task) -> tuple[int, ...]:
    """Token ids at which the model ends what it writes."""
    return tuple(map(self.tokenizer.special_id, self.template.stop(task)))

  def _make_sampler(self, sampling, task):
    return Sampler(
      self.sampling_policy,
      sampling,
      stop_ids=self.stop_ids(task),
      pad_id=self.tokenizer.pad_id,
      mesh=self.mesh,
      rules=self.rollout_rules,
    )

  def keep_rollouts(
    self,
    stage: str,
    split: Split,
    update_step: int,
    rows: Sequence[dict[str, Any]],
  ) -> None:
    """Writes rollouts to the working directory and shows them to trackers.

    Args:
      stage: name of the stage.
      split: "train" or "valid".
      update_step: the update step that they belong to, from 0.
      rows: as `record.rows_of` makes them.
    """
    self.recorder.write(stage, split, update_step, rows)
    samples = {f"{stage}/samples/{split}": rows}
    self.trackers.keep(update_step, rollouts=samples)

  def put(self, batch: Any) -> Any:
    """Places rows, the same of every process, on the mesh."""
    return sharding.put_batch(batch, self.mesh, self.rules)


class Batch(NamedTuple):
  """The batch of an update step, and what is known of it.

  Micro-batches are packed, and placed on the devices, as they are taken.
  """

  micro_batches: Iterable[MicroBatch]
  values: dict[str, float]


class Dispatched(NamedTuple):
  """What is known of an update step that may still be running.

  Attributes:
    values: metrics that are known already.
    metrics: lists of metrics on the devices; each list is reduced as a whole.
    renamed: what to call some of `metrics` instead, by the names of their
      fields.
  """

  values: dict[str, float]
  metrics: list[list[Any]]
  renamed: Mapping[str, str] = types.MappingProxyType({})


class StageConfig(Protocol):
  """What the loop reads of a stage's configuration."""

  update_steps: int
  validate_every: int


class Stage(Protocol):
  """What the loop needs of a stage."""

  name: str
  config: StageConfig
  description: str
  columns: tuple[Column, ...]
  uses_reference: bool
  updater: Updater

  def prepare(self, params: Any) -> None:
    """Makes the updater for parameters like these, which stay as they are."""

  def plan(self) -> Iterator[Program]:
    """The programs of an update step, before they run."""

  def take_update(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    """Starts an update step (all its passes); consumes data and the state.

    Raises:
      NothingLeftError: there is nothing more to train on.
    """

  def validate(
    self, params: Any, update_step: int
  ) -> tuple[float, dict[str, float]]:
    """How good parameters are (more is better), and metrics to log.

    Args:
      params: the parameters.
      update_step: the update step that made them, from 0.
    """

  def check(self, values: dict[str, float]) -> None:
    """Raises RecurringError if an update step's metrics are alarming."""

  def compiled_count(self) -> int:
    """How many programs are compiled, apart from the updater's."""

  def get_state(self) -> tuple[dict[str, Any], Any]:
    """JSON-able state of the data stream, and the pool."""

  def set_state(self, data: dict[str, Any], pool: Any) -> None:
    """Restores what get_state returned."""

  def close(self) -> None:
    """Ends worker processes."""


def update_on(
  batch: Batch,
  updater: Updater,
  state: TrainState,
  *,
  update_step: int,
  passes: int,
  reference: Any,
) -> tuple[TrainState, Dispatched]:
  """Starts `passes` update steps, each on the whole batch.

  Without micro-batches they change no parameter.
  """
  parts, of_batches, of_updates = batch.micro_batches, [], []
  if passes > 1:
    parts = list(parts)
  for number in range(passes):
    if number == 1:
      # The first pass has moved the parameters away from the sampler's.
      parts = [b._replace(is_fresh_NBW=b.is_fresh_NBW & False) for b in parts]
    state, metrics, of_update = updater.update(
      state, parts, update_step * passes + number, reference
    )
    of_batches += metrics
    of_updates.append(of_update)
  values = batch.values | {"micro_batches": len(of_batches)}
  return state, Dispatched(values, [x for x in (of_batches, of_updates) if x])


def check_finite(values: dict[str, float]) -> None:
  """Raises RecurringError when the gradient has overflowed."""
  if not np.isfinite(values["grad_norm"]):
    raise RecurringError(
      f"the gradient norm is {values['grad_norm']}: the loss overflowed; lower "
      "optim.learning_rate, try c.model.dtype='float32', or put "
      "JAX_DEBUG_NANS=True before the command, which shows the operation"
    )
