# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning on what the expert wrote, step by step or in one go.

The warm start of SRL, and a baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax.config import SftConfig
from srl_jax.data import batching
from srl_jax.reductions import reduce_metrics
from srl_jax.train import memory as memory_plan
from srl_jax.train.memory import Program, Scalars
from srl_jax.train.stage import (
  Dispatched,
  Run,
  StageData,
  Work,
  check_finite,
  check_multiple,
  local_part,
  update_on,
)
from srl_jax.types import Branches
from srl_jax.update.batch import MicroBatch
from srl_jax.update.grpo import sft_loss
from srl_jax.update.updater import TrainState, Updater, compiled_count


class SftStage:
  """Cross-entropy on the expert's targets, branch by branch."""

  description = ""
  passes = 1
  columns = ("loss {loss:.4f}", "{tokens_per_s:,.0f} tokens/s")
  uses_reference = False

  def __init__(self, run: Run, name: str, config: SftConfig):
    self._run, self._config = run, config
    # The batch is a multiple of it.
    check_multiple(
      run,
      f"{name}.trunks_per_micro_batch",
      config.trunks_per_micro_batch,
      run.config.rules,
    )
    tasks = [config.trunks]
    if config.alternate_solve:
      tasks.append(dataclasses.replace(config.trunks, task="solve"))
    # Tasks take turns, because a batch of both would be padded to the longer.
    self._data = [
      StageData(
        run,
        name,
        getattr(run, config.split),
        trunk_config,
        batch_size=config.trunks_per_batch,
        validation_trunks=config.validation_trunks,
      )
      for trunk_config in tasks
    ]
    self.loss_fn = sft_loss(run.policy, max_logits=config.max_logits)

    def metrics(params, batch):
      return self.loss_fn(params, batch, None)[1]

    self._metrics = jax.jit(metrics)

  def take_step(
    self,
    updater: Updater,
    state: TrainState,
    step: int,
    reference: Any,
  ) -> tuple[TrainState, Dispatched]:
    return update_on(
      self.next_batch(step),
      updater,
      state,
      step=step,
      passes=self.passes,
      reference=reference,
    )

  def planned(self, updater: Updater) -> Iterator[Program]:
    """The programs of a step, before they run."""
    run, rows = self._run, self._config.trunks_per_micro_batch
    place = memory_plan.Placer(run.mesh)

    def micro_batch(data):
      # Empty rows have the shapes and dtypes of all rows.
      batch = batching.collate(
        [],
        trunk_width=data.widths.trunk,
        points=data.widths.points,
        stem_width=data.widths.stem,
      )
      one = expert_batch(batch, data.widths.target)
      abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), one
      )
      return place.rows(abstract, run.config.rules)

    yield from memory_plan.update_programs(
      run.mesh,
      updater,
      map(micro_batch, self._data),
      Scalars(run.key("sft"), jnp.int32(0)),
    )

  def next_batch(self, step: int) -> Work:
    """Makes the batch of a step; consumes data."""
    data = self._data[step % len(self._data)]
    whole = expert_batch(next(data.batches), data.widths.target)
    rows = self._config.trunks_per_micro_batch // jax.process_count()

    def cut(first):
      return jax.tree.map(lambda x: x[first : first + rows], whole)

    firsts = range(0, len(whole.reward_NKG), rows)
    return Work([self._run.put(cut(first)) for first in firsts], {})

  def validate(self, params: Any) -> tuple[float, dict[str, float]]:
    rows = self._config.trunks_per_micro_batch
    parts = []
    for data in self._data:
      for first in range(0, len(data.valid), rows):
        batch = batching.collate(
          data.valid[first : first + rows],
          trunk_width=data.widths.trunk,
          points=data.valid_widths.points,
          stem_width=data.widths.stem,
        )
        whole = expert_batch(batch, data.widths.target)
        batch = self._run.put(local_part(whole, rows))
        parts.append(self._metrics(params, batch))
    values = reduce_metrics(parts)
    return -values["loss"], {
      "validation_loss": values["loss"],
      "validation_accuracy": values["accuracy"],
    }

  def check(self, values: dict[str, float]) -> None:
    check_finite(values)

  def programs(self) -> int:
    return compiled_count(self._metrics)

  def get_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    streams = [data.batches.get_state() for data in self._data]
    return {"streams": streams}, {}

  def set_state(self, data: dict[str, Any], pool: dict[str, Any]) -> None:
    del pool
    for own, state in zip(self._data, data["streams"], strict=True):
      own.batches.set_state(state)

  def close(self) -> None:
    pass


def expert_batch(batch: batching.TrunkBatch, width: int) -> MicroBatch:
  """Branches as the expert wrote them, one per branch point."""
  tokens_NKC, length_NK = batching.target_tokens(batch, width)
  slots_C = np.arange(width)
  stem_NK1 = batch.trunks.stem_length_NK[..., None]
  return MicroBatch(
    trunks=batch.trunks,
    branches=Branches(
      tokens_NRC=tokens_NKC,
      length_NR=length_NK,
      is_completion_NRC=(slots_C >= stem_NK1)
      & (slots_C < length_NK[..., None]),
      sampler_logp_NRC=np.zeros(tokens_NKC.shape, np.float32),
      stopped_NR=length_NK > 0,
    ),
    reward_NKG=np.zeros((*length_NK.shape, 1), np.float32),
    is_fresh_NK=np.zeros(length_NK.shape, bool),
  )
