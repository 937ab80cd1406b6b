# SPDX-License-Identifier: Apache-2.0
"""What packing saves in the update: three layouts of the same kept groups.

  python -m benchmarks.packing
  python -m benchmarks.packing --example=paper

"rows of K points" puts the groups of a trunk into one row with a place for
every branch, "rows of 1 point" gives each group a row, and "lanes" is what
training does. The run fails unless the gradients agree. The examples are:

  registers  groups that update steps of experiments/registers.py sample and
            keep, with its student. Times are of whole update steps too.
  paper     lengths drawn like those of long reasoning: 512 kept groups of 8
            completions, log-normal with a mean of 0.41 of the limit of 1,024
            tokens, 40% of the groups dropped. Positions are counted at this
            size; times are of the tiny model, lengths and groups an eighth.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measuring
from benchmarks.models import MODELS
from srl_jax import config as config_lib
from srl_jax import initial_weights, loading, sharding
from srl_jax.models import LanguageModel
from srl_jax.testing.tiny import make_trunk, make_trunks, small_mesh
from srl_jax.train.rl import RlStage
from srl_jax.types import Branches, make_branches
from srl_jax.update.batch import Experience, MicroBatch, one_branch_per_lane
from srl_jax.update.groups import Groups, Pool, make_groups
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.pack_shapes import pack_shape
from srl_jax.update.packing import PackShape, pack
from srl_jax.update.updater import Updater

Packer = Callable[[Groups], list[MicroBatch]]


def rows_of_points(
  groups: Groups, trunks: int, points: int
) -> list[MicroBatch]:
  """Returns micro-batches of `trunks` rows with places for `points` groups."""
  places: list[tuple[int, int]] = []
  used: dict[int, tuple[int, int]] = {}
  rows = 0
  for trunk_id in groups.trunk_id_P.tolist():
    row, point = used.get(trunk_id, (0, points))
    if point == points:
      row, point, rows = rows, 0, rows + 1
    places.append((row, point))
    used[trunk_id] = row, point + 1
  row_P, point_P = np.array(places).T
  count = -(-rows // trunks) * trunks

  def by_point(x_P):
    out = np.zeros((count, points, *x_P.shape[1:]), x_P.dtype)
    out[row_P, point_P] = x_P
    return out

  def by_row(x_P):
    out = np.zeros((count, *x_P.shape[1:]), x_P.dtype)
    out[row_P] = x_P
    return out

  old = groups.batch
  whole = Experience(
    old.trunks._replace(
      tokens_NS=by_row(old.trunks.tokens_NS),
      length_N=by_row(old.trunks.length_N),
      branch_at_NK=by_point(old.trunks.branch_at_NK[:, 0]),
    ),
    Branches(
      *(by_point(x).reshape(count, -1, *x.shape[2:]) for x in old.branches)
    ),
    by_point(old.reward_NKG[:, 0]),
  )
  batch = jax.device_get(one_branch_per_lane(whole))
  return [
    jax.tree.map(lambda x, i=i: x[i : i + trunks], batch)
    for i in range(0, count, trunks)
  ]


def layouts(trunks: int, points: int, shape: PackShape) -> dict[str, Packer]:
  """Returns the three layouts, in micro-batches of so many trunks."""
  return {
    f"rows of {points} points": lambda x: rows_of_points(x, trunks, points),
    "rows of 1 point": lambda x: rows_of_points(x, trunks, 1),
    f"lanes {tuple(shape)}": lambda x: list(pack(x, shape, update_step=0)),
  }


def count(batches: Sequence[MicroBatch]) -> dict[str, float]:
  """Counts positions, and the shares of them that hold tokens."""
  cells = sum(x.tokens_NBW.size for x in batches)
  places = sum(x.trunk_NUS.size for x in batches)
  tokens = sum(int((x.position_NBW >= 0).sum()) for x in batches)
  trunk = sum(int(x.trunk_length_NU.sum()) for x in batches)
  return {
    "micro-batches": len(batches),
    "positions": cells + places,
    "tokens / positions": (tokens + trunk) / (cells + places),
    "tokens / cells of branches": tokens / cells,
  }


class Bench:
  """An updater, and layouts whose updates are compared and timed."""

  def __init__(self, updater: Updater, params: Any, mesh, rules):
    self._updater, self._params = updater, params
    self._put = lambda batch: sharding.put_batch(batch, mesh, rules)

  def measure(
    self, batches: Sequence[Sequence[MicroBatch]], repeats: int
  ) -> tuple[float, Any]:
    """Returns CPU seconds of an update, least of the repeats, and a gradient.

    Args:
      batches: the micro-batches of one or more updates; times are averaged.
      repeats: times that each update is timed, after one that compiles.
    """
    placed = [[self._put(x) for x in parts] for parts in batches]
    gradients = [self._gradient(parts) for parts in placed]
    costs = []
    for parts in placed:
      costs.append(
        min(
          measuring.timed(lambda p=parts: self._sums(p)).cpu_s
          for _ in range(repeats)
        )
      )
    return float(np.mean(costs)), gradients[0]

  def _sums(self, parts):
    sums = self._updater.zeros()
    for part in parts:
      sums, _ = self._updater.accumulate(self._params, {}, sums, part, None)
    return sums

  def _gradient(self, parts):
    sums, denominator = self._sums(parts)
    return jax.tree.map(lambda x: np.asarray(x / denominator), sums)


def compare(
  bench: Bench,
  choices: dict[str, Packer],
  updates: Sequence[Groups],
  repeats: int,
  rest_s: float,
) -> dict[str, dict[str, float]]:
  """Measures all layouts; `rest_s` is what an update step takes besides.

  Raises:
    AssertionError: the gradients do not agree.
  """
  results, first = {}, None
  for name, layout in choices.items():
    batches = [layout(groups) for groups in updates]
    packing = measuring.timed(lambda f=layout: f(updates[0])).cpu_s
    cpu_s, gradient = bench.measure(batches, repeats)
    first = gradient if first is None else first
    difference = jax.tree.map(np.subtract, gradient, first)
    relative = optax.tree.norm(difference) / optax.tree.norm(first)
    # Float32 sums in another order.
    assert relative < 1e-3, f"{name}: the gradient differs by {relative:.1e}"
    counted = [count(parts) for parts in batches]
    mean = {k: float(np.mean([c[k] for c in counted])) for k in counted[0]}
    results[name] = mean | {
      "packing on the host, CPU s": packing,
      "gradient, CPU s": cpu_s,
      "whole update step, CPU s": rest_s and rest_s + cpu_s,
    }
  return results


class _Watched(Pool):
  """A pool that remembers what was taken."""

  def __init__(self):
    super().__init__()
    self.taken: list[Groups] = []

  def take(self, count: int) -> Groups:
    self.taken.append(super().take(count))
    return self.taken[-1]


def registers(args: argparse.Namespace) -> dict[str, dict[str, float]]:
  """Update steps of experiments/registers.py."""
  config = config_lib.load("experiments/registers.py", args.overrides)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
    run = loading.load_run(config, mesh, pathlib.Path(folder))
    stage = RlStage(run, "srl", config.srl)
    params = initial_weights.initial_params(run)
    stage.prepare(params)
    updates = stage.updates
    updates.pool = pool = _Watched()
    costs = [
      measuring.timed(lambda i=i: updates.next_batch(params, i)).cpu_s
      for i in range(args.updates + 1)
    ]
    stage.close()
    setup = updates.setup
    return compare(
      Bench(stage.updater, params, mesh, run.rules),
      layouts(8, stage.data.widths.points, setup.update_shapes[0]),
      pool.taken[1:],
      args.repeats,
      # The first one compiles.
      float(np.mean(costs[1:])),
    )


def like_the_paper(groups: int, limit: int, seed: int = 0) -> Groups:
  """Draws kept groups: two branch points per trunk, 60% of them kept."""
  rng = np.random.default_rng(seed)
  samples, points, stem = 8, 2, max(1, limit // 64)
  count = int(groups / (0.6 * points)) + 1
  at_NK = np.sort(rng.integers(limit // 8, limit, (count, points)), axis=1)
  trunks = make_trunks(
    [
      make_trunk(
        rng.integers(1, 512, at_K[-1]), *((at, [1] * stem, at) for at in at_K)
      )
      for at_K in at_NK.tolist()
    ]
  )
  shape = (count, points * samples)
  sigma = 0.6
  # The limit cuts the longest, which lowers the mean by 2%.
  middle = np.log(0.42 * limit) - sigma**2 / 2
  drawn_NR = np.minimum(rng.lognormal(middle, sigma, shape), limit)
  length_NR = stem + np.maximum(drawn_NR, 1).astype(np.int32)
  tokens_NRC = rng.integers(1, 512, (*shape, stem + limit)).astype(np.int32)
  branches = make_branches(
    tokens_NRC=tokens_NRC,
    stem_length_NR=np.full(shape, stem, np.int32),
    length_NR=length_NR,
    sampler_logp_NRC=np.zeros(tokens_NRC.shape, np.float32),
    stopped_NR=np.ones(shape, bool),
  )
  branches = branches._replace(
    sampler_logp_NRC=np.where(branches.is_completion_NRC, np.float32(-6.2), 0)
  )
  kept_NK = np.zeros((count, points), bool)
  kept_NK.flat[rng.permutation(kept_NK.size)[:groups]] = True
  return make_groups(
    trunks,
    branches,
    rng.random((count, points, samples)),
    np.zeros((count, points), np.int32),
    kept_NK,
    update_step=0,
    round_index=0,
  )


def paper(args: argparse.Namespace) -> dict[str, dict[str, float]]:
  """Lengths like the paper's, on the tiny model."""
  rules, mesh = sharding.ShardingRules(), small_mesh()
  policy = LanguageModel(MODELS["tiny"], rules)
  shape = pack_shape(4, multiple=1, branches=16, filled=1 / 5)
  choices = layouts(4, 2, shape)
  with jax.set_mesh(mesh):
    params = sharding.born_sharded(
      policy.init, jax.random.key(0), mesh=mesh, rules=rules
    )
    updater = Updater(
      grpo_loss(policy, LossConfig(), 1.0),
      optax.sgd(1.0),
      lambda _: 1.0,
      params,
      mesh,
    )
    results = compare(
      Bench(updater, params, mesh, rules),
      choices,
      [like_the_paper(64, 128)],
      args.repeats,
      0.0,
    )
  whole = like_the_paper(512, 1024)
  for name, layout in choices.items():
    results[name] |= {
      f"{k}, at full size": v for k, v in count(layout(whole)).items()
    }
  return results


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="What packing saves in the update.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  examples = {"registers": registers, "paper": paper}
  add = parser.add_argument
  add("--example", choices=examples, nargs="+", default=list(examples))
  add("--updates", type=int, default=4, help="update steps of the register run")
  add("--repeats", type=int, default=3, help="times that each is timed")
  add("--overrides", nargs="*", default=[], help="of the register experiment")
  args = parser.parse_args(argv)
  print(measuring.describe_machine())
  for name in args.example:
    print(f"\n{name}\n{measuring.table(examples[name](args))}", flush=True)


if __name__ == "__main__":
  main()
