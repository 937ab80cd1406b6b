# SPDX-License-Identifier: Apache-2.0
"""Does a device compute what the CPU computes? Samples, update, reward.

Both devices of one process run the same programs on the same numbers, in
float32 with full-precision matrix products. Each check returns the differences
and raises RuntimeError if they are too large.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import one_device
from benchmarks.one_device import Engine
from benchmarks.workload import Workload
from srl_jax.device_rewards import similarity, text
from srl_jax.models import ModelConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.testing import texts
from srl_jax.testing.lanes import branch_logps
from srl_jax.types import Branches
from srl_jax.update.batch import one_branch_per_lane
from srl_jax.update.grpo import LossConfig

# The devices add float32 numbers in different orders. Log-probs are about 6
# nats, with errors of 1e-6 to 1e-5; products rounded to tf32 or bf16 have
# errors 100 times larger.
MAX_LOGP_DIFFERENCE = 1e-4
MAX_GRADIENT_DIFFERENCE = 1e-4


def check_model(
  model: ModelConfig,
  work: Workload,
  device: jax.Device,
  reference: jax.Device,
) -> dict[str, float]:
  """Compares greedy samples, log-probs and gradient on two devices."""
  with jax.default_matmul_precision("highest"):
    theirs = Engine(model, reference)
    ours = Engine(model, device, jax.device_get(theirs.params))
    samples = [greedy(engine, work) for engine in (ours, theirs)]
    found = compare_greedy(*samples)
    passes = [
      log_probs_and_gradient(engine, work, samples[1])
      for engine in (ours, theirs)
    ]
    return found | compare_update(*passes, samples[1].is_completion_NRC)


def greedy(engine: Engine, work: Workload) -> Branches:
  """Samples the most likely tokens, equal for all samples of a point."""
  config = SamplingConfig(work.samples, work.new_tokens, temperature=0.0)
  trunks = one_device.make_trunks(work, engine.policy.config.vocab_size)
  with engine.placed():
    return engine.sampler(config).sample(
      engine.params, trunks, jax.random.key(0)
    )


def compare_greedy(ours: Branches, theirs: Branches) -> dict[str, float]:
  """Counts equal tokens; after a tie, two samples may differ."""
  width = ours.tokens_NRC.shape[-1]
  rows = lambda x: x.reshape(-1, width)  # noqa: E731
  differs_BC = rows(ours.tokens_NRC != theirs.tokens_NRC)
  gap_BC = rows(np.abs(ours.sampler_logp_NRC - theirs.sampler_logp_NRC))
  # Tokens up to and including the first difference have the same context.
  is_shared_BC = np.cumsum(differs_BC, axis=1) - differs_BC == 0
  worst = float(np.where(is_shared_BC, gap_BC, 0).max())
  ties = int(differs_BC.any(1).sum())
  if worst > MAX_LOGP_DIFFERENCE:
    raise RuntimeError(
      f"greedy samples differ: log-probs of what each device finds most likely "
      f"by up to {worst:.2g} nats, more than {MAX_LOGP_DIFFERENCE:g}; "
      f"{ties} of {len(differs_BC)} branches have other tokens"
    )
  return {
    "greedy tokens compared": int(rows(ours.is_completion_NRC).sum()),
    "branches that part at a tie": ties,
    "greedy log-prob, largest difference": worst,
  }


def log_probs_and_gradient(
  engine: Engine, work: Workload, branches: Branches
) -> tuple[Any, Any]:
  """Returns log-probs [N, R, C] and gradient of the update, on the host."""
  vocab_size = engine.policy.config.vocab_size
  # Makes ratios that differ from 1, on both sides of the clip interval.
  shift_NRC = np.random.default_rng(0).uniform(
    -0.5, 0.5, branches.sampler_logp_NRC.shape
  )
  shifted_NRC = np.float32(branches.sampler_logp_NRC + shift_NRC)
  counted_NRC = branches.is_completion_NRC
  batch = one_device.make_batch(
    work,
    vocab_size,
    branches._replace(
      sampler_logp_NRC=np.where(counted_NRC, shifted_NRC, np.float32(0))
    ),
    work.trajectories,
  )
  with engine.placed():
    batch = engine.put(batch)
    logps = jax.jit(
      lambda params, batch: branch_logps(
        engine.policy,
        params,
        batch.trunks,
        batch.branches,
        temperature=1.0,
        max_logits=LossConfig().max_logits,
      )[0]
    )(engine.params, batch)
    updater = engine.updater(LossConfig(), optax.sgd(1.0))
    sums, _ = updater.accumulate(
      engine.params, {}, updater.zeros(), one_branch_per_lane(batch), None
    )
  gradient = jax.tree.map(lambda x: np.asarray(x / sums[1]), sums[0])
  return np.asarray(logps), gradient


def compare_update(
  ours: Any, theirs: Any, counted_NRC: Any
) -> dict[str, float]:
  """Compares two results of `log_probs_and_gradient`."""
  gap_NRC = np.where(counted_NRC, np.abs(ours[0] - theirs[0]), 0)
  difference = jax.tree.map(np.subtract, ours[1], theirs[1])
  norm = lambda tree: float(  # noqa: E731
    np.sqrt(sum(np.vdot(x, x) for x in jax.tree.leaves(tree)))
  )
  found = {
    "update log-prob, largest difference": float(gap_NRC.max()),
    "gradient, relative difference": norm(difference) / norm(theirs[1]),
  }
  for value, bound in zip(
    found.values(), (MAX_LOGP_DIFFERENCE, MAX_GRADIENT_DIFFERENCE), strict=True
  ):
    # Written so that nan does not pass.
    if not value <= bound:
      raise RuntimeError(f"the update differs from that of the CPU: {found}")
  return found


def check_reward(
  device: jax.Device, pairs: int, chars: Sequence[int]
) -> dict[str, float]:
  """Compares similarities from UTF-8 bytes with difflib's on the texts."""
  rng = random.Random(0)
  made = [
    texts.pair(rng, texts.KINDS[i % len(texts.KINDS)], length)
    for length in chars
    for i in range(pairs)
  ]
  found_B = device_ratios(device, made)
  expected_B = [
    difflib.SequenceMatcher(None, *pair, autojunk=False).ratio()
    for pair in made
  ]
  # Both divide whole numbers; a device may differ by one rounding.
  if not np.allclose(found_B, expected_B, rtol=2e-7, atol=0):
    worst = int(np.argmax(np.abs(found_B - np.float32(expected_B))))
    raise RuntimeError(
      f"the reward of {made[worst]!r} is {found_B[worst]} on the device and "
      f"{expected_B[worst]} by difflib"
    )
  return {
    "rewards equal to difflib": len(made),
    "of them bit for bit": int((found_B == np.float32(expected_B)).sum()),
    "mean similarity": float(np.mean(expected_B)),
  }


def device_ratios(
  device: jax.Device, pairs: Sequence[tuple[str, str]]
) -> np.ndarray:
  """Returns similarities, computed on the device from the texts' bytes."""
  predictions, experts = zip(*pairs, strict=True)
  width = max(len(x.encode()) for x in predictions)
  tokens_BC = np.zeros((len(pairs), width), np.int32)
  kept_BC = np.zeros(tokens_BC.shape, bool)
  for row, prediction in enumerate(predictions):
    encoded = prediction.encode()
    tokens_BC[row, : len(encoded)] = list(encoded)
    kept_BC[row, : len(encoded)] = True
  expert_BY = np.zeros((len(pairs), max(map(len, experts)) or 1), np.int32)
  for row, expert in enumerate(experts):
    expert_BY[row, : len(expert)] = [ord(c) for c in expert]
  expert_length_B = np.array([len(x) for x in experts], np.int32)
  table = text.make_token_table([bytes([b]) for b in range(256)])

  @jax.jit
  def ratios(table, tokens_BC, kept_BC, expert_BY, expert_length_B):
    spelt_BU, bytes_B = text.spell(table, tokens_BC, kept_BC, width)
    code_BU, is_character_BU = text.decode_utf8(spelt_BU, bytes_B)
    code_BX, length_B = text.compact(code_BU, is_character_BU, width)
    count_B = similarity.matching_characters(
      code_BX, length_B, expert_BY, expert_length_B
    )
    return similarity.ratio(count_B, length_B + expert_length_B)

  arrays = (table, tokens_BC, kept_BC, expert_BY, expert_length_B)
  with jax.default_device(device):
    return np.asarray(ratios(*jax.device_put(arrays, device)))
