# SPDX-License-Identifier: Apache-2.0
"""What does it save to go on from a context instead of running it again?

  python -m benchmarks.continued
  python -m benchmarks.continued --conversations=32 --turns=20

Conversations of many turns on the stream that episodes, the chat and the server
use. After each turn what the model wrote and an observation come behind the
context. "anew" runs every context from its first token, as a stream does
that finds no row to go on from. Both write the same, greedily: at random, one
draw in thousands would turn on how a logit is rounded.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from unittest import mock

import jax
import numpy as np

from benchmarks import measuring, models
from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.rollout import stream as stream_lib
from srl_jax.rollout.requests import Request
from srl_jax.testing.tiny import random_params, small_mesh

PROBLEM_TOKENS = 300


def converse(model, params, conversations: int, turns: int) -> dict[str, float]:
  """Lets conversations take their turns; returns counts and CPU seconds."""
  rng, vocab = np.random.default_rng(0), model.config.vocab_size
  stream = stream_lib.Stream(
    model,
    params,
    rows=conversations,
    slots=1,
    stop_ids=(),
    mesh=small_mesh(),
    rules=sharding.ShardingRules(),
    key=jax.random.key(0),
  )
  under_way, written = {}, []
  begin = time.process_time()

  def ask(name, turn, context):
    request = Request(
      context,
      point_id=name * turns + turn,
      max_new_tokens=int(lengths[name, turn]),
      temperature=0,
    )
    under_way[stream.submit(request)] = name, turn, context, []

  lengths = rng.integers(20, 60, (conversations, turns))
  seen = rng.integers(50, 250, (conversations, turns))
  texts = rng.integers(3, vocab, (conversations, turns, 250))
  for name in range(conversations):
    ask(name, 0, rng.integers(3, vocab, PROBLEM_TOKENS).tolist())
  while not stream.is_idle:
    for piece in stream.advance(more_follow=True):
      name, turn, context, drawn = under_way[piece.ticket]
      drawn += piece.tokens
      if not piece.ending:
        continue
      del under_way[piece.ticket]
      written.append((name, turn, tuple(drawn)))
      if turn + 1 < turns:
        observation = texts[name, turn, : seen[name, turn]].tolist()
        ask(name, turn + 1, context + drawn + observation)
  return {
    "CPU s": time.process_time() - begin,
    "prompt tokens run": stream.work.prompt_tokens,
    "positions, padding too": stream.work.trunk_positions,
    "tokens drawn": stream.work.drawn_tokens,
    "written": hash(tuple(sorted(written))),
  }


def compare(
  model: LanguageModel, conversations: int, turns: int, repeats: int
) -> dict[str, dict[str, float]]:
  """Runs both ways in turns; returns the fastest of each.

  Raises:
    RuntimeError: they did not draw the same tokens.
  """
  params = random_params(model, seed=0)
  found: dict[str, list[dict[str, float]]] = {"anew": [], "continued": []}
  # The first compiles.
  for _ in range(repeats + 1):
    with mock.patch.object(stream_lib, "continued", lambda *_: 0):
      found["anew"].append(converse(model, params, conversations, turns))
    found["continued"].append(converse(model, params, conversations, turns))
  if len({x.pop("written") for runs in found.values() for x in runs}) > 1:
    raise RuntimeError("the two ways drew other tokens")
  return {
    name: min(runs[1:], key=lambda x: x["CPU s"])
    for name, runs in found.items()
  }


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add("--model", choices=models.MODELS, default="tiny")
  add("--conversations", type=int, default=16)
  add("--turns", type=int, default=10)
  add("--repeats", type=int, default=2)
  args = parser.parse_args(arguments)
  config = dataclasses.replace(
    models.MODELS[args.model], max_positions=PROBLEM_TOKENS + 310 * args.turns
  )
  found = compare(
    LanguageModel(config), args.conversations, args.turns, args.repeats
  )
  print(measuring.describe_machine())
  print(measuring.table(found))


if __name__ == "__main__":
  main()
