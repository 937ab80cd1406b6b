# SPDX-License-Identifier: Apache-2.0
"""The fused update step against its pieces with the host between them.

  python -m benchmarks.overlap
  python -m benchmarks.overlap --parts 1 2 4 --steps=5

All variants run the register task with one round of sampling per update step,
so that they do the same work. The run fails unless they find the same rewards.

  fused            sample, score, filter and update as one program
  pieces           the same programs one by one, reward on the device
  host, P parts    reward on the host; the device decodes part p + 1 of the
                   round while the host scores part p

As in training, an update step is queued before the metrics of the previous one
are read. "Host, not waiting" is the time in which the host works and does not
wait for samples. With one part the device idles during that time; with more,
only while the host scores the last part and makes the batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import measuring
from srl_jax import config as config_lib
from srl_jax import initial_weights, loading, sharding
from srl_jax.config import RlConfig
from srl_jax.reductions import reduce_metrics
from srl_jax.train.rl import RlStage
from srl_jax.train.stage import Dispatched, Run


def variants(
  base: RlConfig, parts: Sequence[int]
) -> dict[str, tuple[str, RlConfig]]:
  """Returns, by variant, where rewards are computed and the stage's section."""
  one_round = dataclasses.replace(base.dynamic_sampling, refill=False)
  # Without KL, no variant has to hold a reference model.
  loss = dataclasses.replace(base.loss, kl_coefficient=0.0)
  base = dataclasses.replace(
    base, dynamic_sampling=one_round, passes=1, loss=loss
  )
  found = {
    "fused": ("device", dataclasses.replace(base, fuse=True)),
    "pieces": ("device", dataclasses.replace(base, fuse=False)),
  }
  for count in parts:
    sampling = dataclasses.replace(base.sampling, parts_per_round=count)
    name = f"host, {count} part{'s' * (count > 1)}"
    found[name] = ("host", dataclasses.replace(base, sampling=sampling))
  return found


class Variant:
  """A stage with its optimizer, ready to take update steps."""

  def __init__(self, run: Run, reward_on: str, config: RlConfig):
    device_reward = dataclasses.replace(run.device_reward, on=reward_on)
    run = dataclasses.replace(run, device_reward=device_reward)
    params = initial_weights.initial_params(run)
    self._stage = RlStage(run, "srl", config)
    self._stage.prepare(params)
    self._state = self._stage.updater.init(params)
    self._step = 0

  def steps(self, count: int) -> list[dict[str, float]]:
    """Takes update steps as the training loop does; returns their metrics."""
    found, pending = [], None
    for _ in range(count):
      start_s = time.perf_counter()
      self._state, dispatched = self._stage.take_update(
        self._state, self._step, None
      )
      queued_s = time.perf_counter() - start_s
      self._step += 1
      if pending:
        found.append(_read(*pending))
      pending = (dispatched, queued_s)
    found.append(_read(*pending))
    return found

  def close(self) -> None:
    """Ends worker processes."""
    self._stage.close()


def _read(dispatched: Dispatched, queued_s: float) -> dict[str, float]:
  values = dict(dispatched.values)
  for metrics in dispatched.metrics:
    values |= reduce_metrics(metrics)
  # While the host waits for samples, the device works. The rest of the time to
  # queue an update step is the host's.
  waited_s = values.get("rollout_s", 0.0) - values.get("reward_s", 0.0)
  return values | {"queued_s": queued_s, "host_s": queued_s - waited_s}


def measure(
  run: Run,
  configs: dict[str, tuple[str, RlConfig]],
  steps: int,
  repeats: int,
) -> dict[str, dict[str, float]]:
  """Returns {variant: {quantity: value}}, medians over turns.

  In each turn every variant takes `steps` update steps.

  Raises:
    AssertionError: the variants found different rewards.
  """
  stages = {name: Variant(run, *config) for name, config in configs.items()}
  rewards: dict[str, list[float]] = {}
  costs: dict[str, list[tuple[float, ...]]] = {name: [] for name in stages}
  try:
    for turn in range(1 + repeats):
      for name, stage in stages.items():
        found: list[dict[str, float]] = []
        # The first turn is one update step, which compiles.
        count = steps if turn else 1
        cost = measuring.timed(
          lambda f=found, s=stage, c=count: f.extend(s.steps(c))
        )
        rewards.setdefault(name, []).extend(x["reward"] for x in found)
        if turn:
          host_s = sum(x["host_s"] for x in found)
          scored_s = sum(x.get("reward_s", 0.0) for x in found)
          costs[name].append(
            tuple(x / steps for x in (*cost[:2], host_s, scored_s))
          )
  finally:
    for stage in stages.values():
      stage.close()
  first = next(iter(rewards.values()))
  for name, values in rewards.items():
    np.testing.assert_allclose(
      values, first, rtol=1e-3, atol=1e-4, err_msg=name
    )
  return {name: _row(found) for name, found in costs.items()}


def _row(costs: Sequence[tuple[float, ...]]) -> dict[str, float]:
  wall_s, cpu_s, host_s, scored_s = map(
    statistics.median, zip(*costs, strict=True)
  )
  return {
    "a step, wall s": wall_s,
    "a step, CPU s": cpu_s,
    "host scoring, s": scored_s,
    "host, not waiting, s": host_s,
    "host, not waiting, share": host_s / wall_s,
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="The fused step against its pieces.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--config", default="experiments/registers.py", help=" ")
  parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4])
  parser.add_argument("--steps", type=int, default=3, help="per turn")
  parser.add_argument("--repeats", type=int, default=3, help="turns timed")
  args = parser.parse_args(argv)
  config = config_lib.load(args.config)
  print(f"{args.config}\n{measuring.describe_machine()}", flush=True)
  mesh = sharding.make_mesh(config.mesh)
  with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, pathlib.Path(folder))
    results = measure(
      run, variants(config.srl, args.parts), args.steps, args.repeats
    )
  print(measuring.table(results))


if __name__ == "__main__":
  main()
