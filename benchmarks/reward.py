# SPDX-License-Identifier: Apache-2.0
"""Rewards on the device against the host's libraries: pairs per CPU second.

  python -m benchmarks.reward
  python -m benchmarks.reward --chars 100 400 --pairs=64

A pair is an expert's step and an attempt at it. On the host one thread
compares pair by pair (cydifflib, Levenshtein). In graph all pairs are one call
of `srl_jax.device_rewards.similarity.by_length`, with the default sizes and
chunks. Both are divided by the CPU time of all cores, so the number of cores
does not matter. The run fails unless both give the same ratios.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import statistics
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import measuring
from srl_jax.device_rewards import similarity
from srl_jax.device_rewards.reward import DeviceRewardConfig
from srl_jax.rewards import difflib_ratio, levenshtein_ratio
from srl_jax.testing import texts

FUNCTIONS = {
  "difflib": (difflib_ratio, similarity.matching_characters),
  "levenshtein": (levenshtein_ratio, similarity.common_subsequence),
}


def make_pairs(count: int, chars: int, seed: int = 0) -> list[tuple[str, str]]:
  """Returns (attempt, expert's step) pairs of at most `chars` characters.

  There is one edit per 25 characters; half of the edits are longer than a few
  characters.
  """
  rng = random.Random(seed)
  kinds = ("math", "code", "tool")
  experts = [texts.step(rng, rng.choice(kinds), chars) for _ in range(count)]
  edits = max(1, chars // 25)
  return [(texts.attempt(rng, e, edits, chars), e) for e in experts]


def encode(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Returns code points, right padded with 0, and lengths."""
  lengths = np.array([len(s) for s in strings], np.int32)
  codes = np.zeros((len(strings), lengths.max()), np.int32)
  for row, string in enumerate(strings):
    codes[row, : len(string)] = [ord(c) for c in string]
  return codes, lengths


def in_graph(
  function: str, pairs: Sequence[tuple[str, str]], config: DeviceRewardConfig
) -> Callable[[], jax.Array]:
  """Returns a call that computes the ratios of pairs, already compiled."""
  predictions, experts = zip(*pairs, strict=True)
  arrays = jax.device_put((*encode(predictions), *encode(experts)))

  @jax.jit
  def ratios(a_BX, a_length_B, b_BY, b_length_B):
    count_B = similarity.by_length(
      FUNCTIONS[function][1],
      a_BX,
      a_length_B,
      b_BY,
      b_length_B,
      sizes=config.sizes,
      chunk_cells=config.cells(),
    )
    return similarity.ratio(count_B, a_length_B + b_length_B)

  jax.block_until_ready(ratios(*arrays))
  return functools.partial(ratios, *arrays)


def measure(
  chars: Sequence[int], pairs: int, repeats: int, config: DeviceRewardConfig
) -> dict[str, dict[str, float]]:
  """Returns {"host" or "in graph": {quantity: pairs per CPU second}}.

  Rates are medians over `repeats` turns; both run once in each turn. There are
  `pairs` pairs of 100 characters, and fewer of longer ones, because the work
  grows with the square of the length.

  Raises:
    AssertionError: host and graph do not agree.
  """
  results: dict[str, dict[str, float]] = {"host": {}, "in graph": {}}
  for function, length in itertools.product(FUNCTIONS, chars):
    count = max(2, round(pairs * min(1, (100 / length) ** 2)))
    these = make_pairs(count, length)
    host = functools.partial(on_host, function, these)
    graph = in_graph(function, these, config)
    expected = np.float32(host())
    np.testing.assert_array_equal(graph(), expected)
    costs = [
      (measuring.timed(host), measuring.timed(graph)) for _ in range(repeats)
    ]
    quantity = (
      f"{function}, {length:,} characters ({expected.mean():.2f} alike)"
    )
    for variant, of_variant in zip(
      results, zip(*costs, strict=True), strict=True
    ):
      cpu_s = statistics.median(cost.cpu_s for cost in of_variant)
      results[variant][quantity] = count / cpu_s
  return results


def on_host(function: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
  """Returns the ratios of pairs, computed one after the other."""
  return [FUNCTIONS[function][0](*pair) for pair in pairs]


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Rewards in graph against the host's libraries.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument(
    "--chars", type=int, nargs="+", default=[100, 400, 1500], help="lengths"
  )
  parser.add_argument(
    "--pairs", type=int, default=1024, help="of 100 characters"
  )
  parser.add_argument("--repeats", type=int, default=5, help="turns timed")
  args = parser.parse_args(argv)
  config = DeviceRewardConfig()
  print(f"pairs per CPU second, {config}\n{measuring.describe_machine()}")
  results = measure(args.chars, args.pairs, args.repeats, config)
  print(measuring.table(results))


if __name__ == "__main__":
  main()
