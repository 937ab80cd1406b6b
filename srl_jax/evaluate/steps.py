# SPDX-License-Identifier: Apache-2.0
"""Evaluates single steps: compares sampled steps with the expert's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import progress, sharding
from srl_jax.data.batching import TrunkBatch, Widths
from srl_jax.data.trunks import Trunk
from srl_jax.evaluate.estimates import Estimate, bootstrap, share
from srl_jax.rewards import Scorer, format
from srl_jax.rollout import batches, rounds, scoring
from srl_jax.rollout.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.types import Branches, Scores


def evaluate_steps(
  sampler: Sampler,
  params: Any,
  trunks: Sequence[Trunk],
  *,
  key: jax.Array,
  tokenizer: Tokenizer,
  scorer: Scorer,
  widths: Widths,
  trunks_per_batch: int,
  watch: Callable[[TrunkBatch, Branches, Scores], None] | None = None,
) -> dict[str, Estimate]:
  """Samples the next step at every branch point and compares it.

  Args:
    sampler: a sampler with the temperature and group size to measure.
    params: the model's parameters.
    trunks: the trunks; all processes pass the same ones.
    key: random key of the samples.
    tokenizer: the tokenizer that decodes the samples.
    scorer: the scorer of the reported reward.
    widths: widths of the padded batches; at least `batching.widths(trunks)`.
    trunks_per_batch: trunks decoded together.
    watch: called with each batch, its branches and their scores.

  Returns:
    The means "reward", "similarity" (0 where the format is broken), "exact"
    (the action equals the target, character by character), "format_failure",
    and "similarity_step_1", ... by step depth, with intervals over
    trajectories. If the reward is not a similarity, its means are called
    "value" and "value_step_1", ... instead.
  """
  kind = "similarity" if scorer.is_similarity else "value"
  sums: dict[str, np.ndarray] = {}
  ids = dict.fromkeys(trunk.trajectory.id for trunk in trunks)
  row_of = {name: row for row, name in enumerate(ids)}

  def add(name, row, value):
    terms = sums.setdefault(name, np.zeros((2, len(row_of))))
    terms[:, row] += value, 1

  for batch, branches in batches.sample_batches(
    sampler, params, trunks, key, widths, trunks_per_batch
  ):
    own = rounds.own_scores(batch, branches, None, scorer, tokenizer)
    scores = sharding.gather_rows(own, len(batch.sources))
    if watch:
      watch(batch, branches, scores)
    texts = scoring.completion_texts(branches, tokenizer)
    samples = scores.reward_NKG.shape[-1]
    for n, trunk in enumerate(batch.sources):
      row = row_of[trunk.trajectory.id]
      for k, point in enumerate(trunk.points):
        target = point.target.strip(format.WHITESPACE)
        for g in range(samples):
          value = scores.value_NKG[n, k, g]
          is_broken = bool(np.isnan(value))
          value = 0.0 if is_broken else float(value)
          action = format.split_lenient(texts[n][k * samples + g].text).action
          add("reward", row, float(scores.reward_NKG[n, k, g]))
          add(kind, row, value)
          add("exact", row, not is_broken and action == target)
          add("format_failure", row, is_broken)
          add(f"{kind}_step_{point.step + 1}", row, value)
    progress.note(f"mean {kind} {np.divide(*sums[kind].sum(1)):.3f}")
  names = sorted(sums, key=lambda name: (name.count("_"), len(name), name))
  interval = dict.fromkeys(("exact", "format_failure"), share)
  return {name: interval.get(name, bootstrap)(*sums[name]) for name in names}
