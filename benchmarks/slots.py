# SPDX-License-Identifier: Apache-2.0
"""Slots and the first width of the branch cache, with early stop tokens.

  python -m benchmarks.slots
  python -m benchmarks.slots --trajectories=8 --samples=16 --stops=16

A random model ends each completion with one of `stops` tokens of its
vocabulary, so lengths are about geometric with a mean of vocabulary / stops, up
to the limit. The run fails unless all variants draw the same completions.
"slots 0" decodes all branches of a trunk at once; "cache 0" has room for the
longest from the start. Fewer slots save iterations of empty slots but make
narrower products; a growing cache saves reads of empty columns but copies the
cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import measuring, ours
from benchmarks.models import MODELS
from benchmarks.workload import FIRST_WORD, PAD_ID, Workload
from srl_jax import sharding
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.testing.tiny import small_mesh
from srl_jax.types import Branches, SlotUse


class Variant:
  """A compiled sampler with a number of slots and a first cache width."""

  def __init__(
    self, model: ModelConfig, work: Workload, stops: int, slots: int, cache: int
  ):
    self.slots = slots
    mesh, rules = small_mesh(), sharding.ShardingRules()
    policy = LanguageModel(model, rules)
    self._sampler = Sampler(
      policy,
      SamplingConfig(
        work.samples, work.new_tokens, slots=slots, cache_start=cache
      ),
      stop_ids=tuple(range(FIRST_WORD, FIRST_WORD + stops)),
      pad_id=PAD_ID,
      mesh=mesh,
      rules=rules,
    )
    [batch] = ours.trunk_batches(work, model.vocab_size, "shared")
    self._trunks, self._key = batch.trunks, jax.random.key(work.seed)
    self._params = sharding.born_sharded(
      policy.init, self._key, mesh=mesh, rules=rules
    )

  def sample(self) -> tuple[Branches, SlotUse]:
    """Starts sampling; the first call compiles."""
    return self._sampler.start(self._params, self._trunks, self._key)


def measure(
  model: ModelConfig,
  work: Workload,
  *,
  stops: int,
  slots: Sequence[int],
  caches: Sequence[int],
  repeats: int,
) -> dict[str, dict[str, float]]:
  """Returns {cache: {slots: tokens per CPU second}} of the median turns.

  Raises:
    AssertionError: the variants draw different completions.
  """
  variants: dict[tuple[str, str], Variant] = {}
  tokens = sampled = None
  for cache, count in itertools.product(caches, slots):
    variant = Variant(model, work, stops, count, cache)
    branches, slot_use = jax.device_get(variant.sample())
    if tokens is None:
      tokens = branches.tokens_NRC
      sampled = float(branches.is_completion_NRC.sum())
    np.testing.assert_array_equal(branches.tokens_NRC, tokens)
    busy, iterations = (int(x.sum()) for x in slot_use)
    row = f"slots {count} ({busy / iterations:.0%} busy)"
    variants[f"cache {cache}", row] = variant
  costs = [
    {name: measuring.timed(x.sample).cpu_s for name, x in variants.items()}
    for _ in range(repeats)
  ]
  results: dict[str, dict[str, float]] = {}
  for name in variants:
    cpu_s = statistics.median(of_turn[name] for of_turn in costs)
    results.setdefault(name[0], {})[name[1]] = sampled / cpu_s
  return results


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Slots and the first width of the cache.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add("--model", choices=MODELS, default="tiny")
  add("--stops", type=int, default=8, help="tokens that end a completion")
  add("--slots", type=int, nargs="+", default=[0, 8, 4], help="of a trunk")
  add("--caches", type=int, nargs="+", default=[512, 64, 0], help="positions")
  add("--repeats", type=int, default=3, help="turns timed")
  default = Workload(8, 1, 16, 64, 0, 1, 512)
  for field in dataclasses.fields(Workload):
    value = getattr(default, field.name)
    add(f"--{field.name}", type=int, default=value, help="of the workload")
  args = parser.parse_args(argv)
  work = Workload(
    *(getattr(args, field.name) for field in dataclasses.fields(Workload))
  )
  mean = MODELS[args.model].vocab_size / args.stops
  print(f"{args.model} model, completions of about {mean:.0f} tokens, {work}")
  print(f"{measuring.describe_machine()}\ntokens per CPU second")
  results = measure(
    MODELS[args.model],
    work,
    stops=args.stops,
    slots=args.slots,
    caches=args.caches,
    repeats=args.repeats,
  )
  print(measuring.table(results))


if __name__ == "__main__":
  main()
