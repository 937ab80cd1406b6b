# SPDX-License-Identifier: Apache-2.0
"""Shared trunks against flat prompts: tokens, time and memory, side by side.

  python -m benchmarks.prefix_sharing --model=tiny
  python -m benchmarks.prefix_sharing --help

It runs one rollout and one update on the same samples, in three layouts of the
same model code (the trunk of a row is what its branches share):

  shared       a row per trajectory; all branches hang off its one trunk
  flat         a row per sample, with its own copy of its own prompt; rows of
               one length form a batch, so that nothing is padded
  flat padded  the same rows, padded to the longest prompt: one sampling batch,
               and micro-batches of the size that flat has

Tokens are random and there is no stop token, so all lengths are fixed. The run
fails unless samples, log-probs and gradients agree. benchmarks/README.md
explains the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import layouts, measuring
from benchmarks.layouts import Rows
from benchmarks.models import MODELS
from benchmarks.workload import Workload
from srl_jax import sharding
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.ops import advantages, losses
from srl_jax.rollout import decode as rollout
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.types import Branches, Trunks
from srl_jax.update.batch import (
  Experience,
  LossFn,
  MicroBatch,
  one_branch_per_lane,
)
from srl_jax.update.grpo import LossConfig, aggregate, lane_logps
from srl_jax.update.updater import Updater


def given_advantages(
  policy: rollout.Policy, config: LossConfig | None = None
) -> LossFn:
  """Returns the package's GRPO loss, with log-probs in place of metrics."""
  config = config or LossConfig()

  def loss_fn(params, batch, reference):
    del reference
    logp_NBW, *_ = lane_logps(
      policy,
      params,
      batch,
      temperature=1.0,
      max_logits=config.max_logits,
    )
    loss_NBW = losses.clipped_surrogate(
      logp_NBW,
      batch.sampler_logp_NBW,
      batch.advantage_NBW,
      clip_low=config.clip_low,
      clip_high=config.clip_high,
    )
    # The first token of a branch is given and has none.
    logp_NRC = jnp.pad(logp_NBW, ((0, 0), (0, 0), (1, 0)))
    return aggregate(loss_NBW, batch, config), logp_NRC

  return loss_fn


def lanes_of(
  trunks: Trunks, branches: Branches, advantage_NR: np.ndarray
) -> MicroBatch:
  """Returns a lane for each branch, with these advantages.

  In flat layouts the samples of a group lie in different rows, so no row knows
  the mean of its group.
  """
  count, points = trunks.branch_at_NK.shape
  shape = (count, points, branches.length_NR.shape[1] // points)
  batch = one_branch_per_lane(
    Experience(
      trunks,
      branches,
      reward_NKG=np.zeros(shape, np.float32),
    )
  )
  advantage_NBW = np.broadcast_to(
    np.float32(advantage_NR)[..., None], batch.tokens_NBW.shape
  )
  return batch._replace(advantage_NBW=advantage_NBW)


LAYOUTS = ("shared", "flat", "flat padded")


class Bench:
  """The programs and batches of all layouts, on one device."""

  def __init__(
    self, model: ModelConfig, work: Workload, names: Sequence[str] = LAYOUTS
  ):
    self.work = work
    self.mesh = jax.make_mesh(
      (1,) * len(sharding.MESH_AXES),
      sharding.MESH_AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * len(sharding.MESH_AXES),
      devices=jax.devices()[:1],
    )
    rules = sharding.ShardingRules()
    self.policy = LanguageModel(model, rules)
    self.key = jax.random.key(work.seed)
    self.params = sharding.born_sharded(
      self.policy.init, self.key, mesh=self.mesh, rules=rules
    )
    self.sampler = Sampler(
      self.policy,
      SamplingConfig(samples=1, max_new_tokens=work.new_tokens),
      stop_ids=(),
      pad_id=0,
      mesh=self.mesh,
      rules=rules,
    )
    rate = 1e-4
    self.updater = Updater(
      given_advantages(self.policy),
      optax.adamw(rate),
      lambda _: rate,
      self.params,
      self.mesh,
    )
    laid = layouts.layouts(work)
    self.layouts = {name: laid[name] for name in names}
    self.sampling = {
      name: [
        self.put(layouts.make_trunks(work, model.vocab_size, rows))
        for rows in layout.sampling
      ]
      for name, layout in self.layouts.items()
    }
    self.updating: dict[str, list[MicroBatch]] = {}

  def put(self, batch: Any) -> Any:
    """Places a batch on the device."""
    return sharding.put_batch(batch, self.mesh, self.policy.rules)

  def prefill(self, name: str) -> Any:
    """Runs only the trunks."""
    batches = self.sampling[name]
    return [self.sampler.prefill(self.params, trunks) for trunks in batches]

  def rollout(self, name: str) -> list[Branches]:
    """Samples every branch."""
    sampler = self.sampler
    return [
      sampler.decode(sampler.prefill(self.params, b), b, self.key)[0]
      for b in self.sampling[name]
    ]

  def update(self, name: str) -> Any:
    """Takes one update step, from the initial parameters."""
    state = self.updater.init(jax.tree.map(jnp.copy, self.params))
    return self.updater.update(state, self.updating[name], 0)

  def set_samples(self, of_branch: Branches, advantage_B: np.ndarray) -> None:
    """Lays the samples out for the update of each layout."""
    vocab_size = self.policy.config.vocab_size
    for name, layout in self.layouts.items():
      self.updating[name] = [
        self.put(
          lanes_of(
            layouts.make_trunks(self.work, vocab_size, rows),
            Branches(*(x[rows.branch_NR] for x in of_branch)),
            advantage_B[rows.branch_NR],
          )
        )
        for rows in layout.updating
      ]

  def gradient(self, name: str) -> tuple[Any, np.ndarray]:
    """Returns the gradient of the mean loss, and log-probs [branch, C]."""
    sums, found = self.updater.zeros(), []
    for batch in self.updating[name]:
      sums, logp = self.updater.accumulate(self.params, {}, sums, batch, None)
      found.append(logp)
    gradient = jax.tree.map(lambda x: np.asarray(x / sums[1]), sums[0])
    return gradient, self.by_branch(found, self.layouts[name].updating)

  def by_branch(self, parts: Sequence[Any], batches: Sequence[Rows]) -> Any:
    """Returns host arrays [N, R, ...] of all batches as [branch, ...]."""

    def merge(*arrays_NR):
      shape = (self.work.branches, *arrays_NR[0].shape[2:])
      merged = np.zeros(shape, arrays_NR[0].dtype)
      for array_NR, rows in zip(arrays_NR, batches, strict=True):
        merged[rows.branch_NR] = array_NR
      return merged

    return jax.tree.map(merge, *parts)

  def counted(self, name: str) -> dict[str, int]:
    """Counts the tokens and the computed positions of the update."""
    prompt = branch = positions = 0
    for batch in self.updating[name]:
      prompt += int(batch.trunk_length_NU.sum())
      branch += int((batch.position_NBW >= 0).sum())
      positions += batch.trunk_NUS.size + batch.tokens_NBW.size
    return {"prompt": prompt, "branch": branch, "positions": positions}

  def rollout_bytes(self, name: str) -> int:
    """Returns the memory of the largest program of a rollout."""
    return max(
      measuring.compiled_bytes(
        self.sampler.decode.lower(
          jax.eval_shape(self.sampler.prefill, self.params, trunks),
          trunks,
          self.key,
        ).compile()
      )
      for trunks in _distinct(self.sampling[name])
    )

  def update_bytes(self, name: str) -> int:
    """Returns the memory of the largest program of an update."""
    return max(map(self._update_bytes, _distinct(self.updating[name])))

  def _update_bytes(self, batch):
    sums = self.updater.zeros()
    lowered = self.updater.accumulate.lower(self.params, {}, sums, batch, None)
    return measuring.compiled_bytes(lowered.compile())


def _distinct(batches: Sequence[Any]) -> list[Any]:
  """Returns one batch of each shape."""
  return list({_shapes(batch): batch for batch in batches}.values())


def _shapes(batch: Any) -> tuple[Any, ...]:
  return tuple(np.shape(x) for x in jax.tree.leaves(batch))


# Layouts add float32 numbers in different orders. Log-probs are about 6 nats,
# with errors of 1e-6 to 1e-5; a prompt one token off changes them by 0.1.
MAX_LOGP_DIFFERENCE = 1e-4
MAX_GRADIENT_DIFFERENCE = 1e-4


def check_equal(bench: Bench) -> dict[str, float]:
  """Compares all layouts with the shared one; keeps its samples for updates.

  Returns:
    The largest differences: log-probs in nats, and the norm of the gradient's
    difference over the norm of the gradient.

  Raises:
    AssertionError: the layouts do not agree.
  """
  work = bench.work
  samples = {
    name: bench.by_branch(
      jax.device_get(bench.rollout(name)), bench.layouts[name].sampling
    )
    for name in bench.layouts
  }
  shared = samples["shared"]
  for name, other in samples.items():
    assert (other.tokens_NRC == shared.tokens_NRC).all(), (
      f"{name} draws other samples than shared"
    )
  rng = np.random.default_rng(work.seed)
  reward_PG = rng.random((work.branches // work.samples, work.samples))
  advantage_PG = advantages.group_advantages(reward_PG)
  bench.set_samples(shared, advantage_PG.ravel().astype(np.float32))
  found = {name: bench.gradient(name) for name in bench.layouts}
  gradient, logp_BC = found["shared"]
  norm = optax.tree.norm(gradient)
  worst = {"log-prob": 0.0, "gradient": 0.0}
  for name, (of_layout, other_BC) in found.items():
    difference = jax.tree.map(np.subtract, of_layout, gradient)
    sampled_BC = samples[name].sampler_logp_NRC
    is_completion_BC = shared.is_completion_NRC
    for found_BC in (other_BC, sampled_BC):
      gap_BC = np.where(is_completion_BC, found_BC - logp_BC, 0)
      worst["log-prob"] = max(worst["log-prob"], float(np.abs(gap_BC).max()))
    relative = float(optax.tree.norm(difference) / norm)
    worst["gradient"] = max(worst["gradient"], relative)
  assert worst["log-prob"] < MAX_LOGP_DIFFERENCE, worst
  assert worst["gradient"] < MAX_GRADIENT_DIFFERENCE, worst
  return worst


PHASES = ("prefill", "rollout", "update")


def measure(
  model: ModelConfig,
  work: Workload,
  repeats: int,
  names: Sequence[str] = LAYOUTS,
) -> dict[str, dict[str, float]]:
  """Runs everything and returns {layout: {quantity: value}}.

  Times are medians over `repeats` turns. Every layout runs once in each turn,
  so that a busy minute of the machine affects all of them equally.
  """
  bench = Bench(model, work, names)
  worst = check_equal(bench)
  print(
    "samples are equal; largest difference of a log-prob "
    f"{worst['log-prob']:.1e} nats, of the gradient {worst['gradient']:.1e} "
    "of its norm",
    flush=True,
  )
  results: dict[str, dict[str, float]] = {}
  for name in bench.layouts:
    counted = bench.counted(name)
    predicted = dict(
      zip(("prompt", "branch"), work.predicted(name), strict=True)
    )
    for kind, tokens in predicted.items():
      assert counted[kind] == tokens, (name, kind, counted, predicted)
    results[name] = {
      "prompt tokens, predicted": predicted["prompt"],
      "prompt tokens, counted": counted["prompt"],
      "branch tokens, counted": counted["branch"],
      "all tokens, counted": counted["prompt"] + counted["branch"],
      "positions, padding too": counted["positions"],
      "multiply-adds forward, G": layouts.multiply_adds(
        model, work, bench.layouts[name].updating
      )
      / 1e9,
    }
    results[name] |= {
      "rollout program, MB": bench.rollout_bytes(name) / 1e6,
      "update program, MB": bench.update_bytes(name) / 1e6,
    }
  costs: dict[tuple[str, str], list[measuring.Cost]] = {}
  # Compiles what the checks have not compiled yet.
  jax.block_until_ready([bench.prefill(name) for name in bench.layouts])
  jax.block_until_ready(bench.update("shared"))
  for _ in range(repeats):
    for phase, name in itertools.product(PHASES, bench.layouts):
      cost = measuring.timed(lambda p=phase, n=name: getattr(bench, p)(n))
      costs.setdefault((phase, name), []).append(cost)
  for (phase, name), found in costs.items():
    median = measuring.Cost(*map(statistics.median, zip(*found, strict=True)))
    results[name][f"{phase}, s"] = median.wall_s
    results[name][f"{phase}, CPU s"] = median.cpu_s
    results[name][f"{phase}, RSS growth, MB"] = median.rss_bytes / 1e6
  return results


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Shared trunks against flat prompts.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--model", choices=MODELS, default="tiny")
  parser.add_argument("--repeats", type=int, default=5, help="turns timed")
  parser.add_argument(
    "--layouts",
    nargs="+",
    choices=LAYOUTS,
    default=LAYOUTS,
    help="which to compare; shared is always one of them",
  )
  # All completions are as long as their limit, and all groups are kept.
  counts = [x for x in dataclasses.fields(Workload) if x.type == "int"]
  for field in counts:
    flag = "--" + field.name
    parser.add_argument(flag, type=int, default=field.default, help=" ")
  args = parser.parse_args(argv)
  work = Workload(**{x.name: getattr(args, x.name) for x in counts})
  print(
    f"{args.model} model, {work}\n{measuring.describe_machine()}", flush=True
  )
  names = [x for x in LAYOUTS if x == "shared" or x in args.layouts]
  found = measure(MODELS[args.model], work, args.repeats, names)
  print(measuring.table(found))


if __name__ == "__main__":
  main()
