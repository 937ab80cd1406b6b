# SPDX-License-Identifier: Apache-2.0
"""Scores on the device equal the host's, and refusals say the reason."""

import dataclasses
import pathlib
import random

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import srl_jax
from srl_jax.data import batching
from srl_jax.device_rewards import reward as device_reward
from srl_jax.device_rewards.reward import (
  DeviceReward,
  DeviceRewardConfig,
  host_reason,
)
from srl_jax.rewards import FAILURES, RewardConfig, Scorer
from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN
from srl_jax.rollout import scoring
from srl_jax.testing import texts
from srl_jax.testing.compilation import full_compilation
from srl_jax.testing.tiny import make_trunk, small_mesh
from srl_jax.tokenizers import ByteTokenizer, SentencePieceTokenizer
from srl_jax.types import Branches

STUDENTS = (
  pathlib.Path(srl_jax.__file__).parent / "assets" / "registers_student"
)
PIECES = (
  THINK_OPEN,
  THINK_CLOSE,
  " ",
  "\n",
  "x",
  "é",
  "🙂",
  "</think",
  "\u2003",
)


@pytest.fixture(scope="module", params=["byte", "sentencepiece"])
def tokenizer(request):
  if request.param == "byte":
    return ByteTokenizer()
  return SentencePieceTokenizer(STUDENTS / "tokenizer.model")


def make_some_trunks(targets):
  """Returns trunks whose branch points have these targets."""
  trunks = []
  for n, of_trunk in enumerate(targets):
    points = [(1, [2, 3], 10 * n + k) for k in range(len(of_trunk))]
    made = make_trunk([1, 2], *points)
    points = tuple(
      dataclasses.replace(point, target=target)
      for point, target in zip(made.points, of_trunk, strict=True)
    )
    trunks.append(dataclasses.replace(made, points=points))
  return trunks


def make_batch(targets):
  """Returns a batch of such trunks; missing points are padded."""
  trunks = make_some_trunks(targets)
  return batching.collate(
    trunks, trunk_width=2, points=max(map(len, targets)), stem_width=2
  )


def make_branches(completions, tokenizer, *, width, stem=2):
  """Returns branches of [N, R] completions: (text or tokens, stopped)."""
  stop = tokenizer.special_id("</s>")
  shape = (len(completions), len(completions[0]))
  branches = Branches(
    tokens_NRC=np.full((*shape, width), 7, np.int32),
    length_NR=np.zeros(shape, np.int32),
    is_completion_NRC=np.zeros((*shape, width), bool),
    sampler_logp_NRC=np.zeros((*shape, width), np.float32),
    stopped_NR=np.zeros(shape, bool),
  )
  for at in np.ndindex(shape):
    tokens, stopped = completions[at[0]][at[1]]
    if isinstance(tokens, str):
      tokens = tokenizer.encode(tokens)
    # A completion at the limit did not end with a stop token.
    stopped = stopped and stem + len(tokens) < width
    tokens = [*tokens, stop] if stopped else tokens
    tokens = tokens[: width - stem]
    branches.length_NR[at] = stem + len(tokens)
    branches.tokens_NRC[at][stem : stem + len(tokens)] = tokens
    branches.is_completion_NRC[at][stem : stem + len(tokens)] = True
    branches.stopped_NR[at] = stopped
  return branches


def make_completion(rng, tokenizer, target):
  """Returns a completion: mostly right, sometimes broken in some way."""
  kind = rng.random()
  if kind < 0.1:  # any ids at all: bad UTF-8, control tokens, ids without one
    ids = range(tokenizer.vocab_size + 2)
    return rng.choices(ids, k=rng.randint(0, 20)), True
  if kind < 0.3:
    return "".join(rng.choices(PIECES, k=rng.randint(0, 8))), rng.random() < 0.9
  chars = len(target) + 3
  thought = texts.step(rng, rng.choice(texts.KINDS), rng.randint(0, 20))
  space = rng.choice(("", "\n", " \r\n\t"))
  action = texts.attempt(rng, target, rng.randint(0, 4), chars)
  text = f"{space}{THINK_OPEN}{thought}{THINK_CLOSE}{space}{action}{space}"
  return text, rng.random() < 0.95


def fuzz_batch(rng, tokenizer, *, trunks, samples, chars, width):
  """Returns trunks of one to three points, and samples at each."""
  targets = [
    [
      rng.choice(("", " \n"))
      + texts.step(rng, rng.choice(texts.KINDS), rng.randint(0, chars))
      for _ in range(rng.choice((1, 2, 3, 3)))
    ]
    for _ in range(trunks - 1)
  ]
  targets.append(["a", "b", "c"])
  completions = [
    [
      make_completion(rng, tokenizer, target)
      for target in [*of_trunk, *[""] * (3 - len(of_trunk))]
      for _ in range(samples)
    ]
    for of_trunk in targets
  ]
  return make_batch(targets), make_branches(completions, tokenizer, width=width)


def assert_scores_as_host(reward, batch, branches, tokenizer, score, width):
  targets = device_reward.encode_targets(batch, width)
  found, is_scored_NKG = jax.device_get(score(branches, targets))
  with Scorer(reward) as scorer:
    expected = scoring.score_branches(batch, branches, tokenizer, scorer)
  np.testing.assert_array_equal(is_scored_NKG, ~np.isnan(expected.reward_NKG))
  for name, one, other in zip(expected._fields, expected, found, strict=True):
    np.testing.assert_array_equal(other, one, err_msg=name)
    assert other.dtype == one.dtype, name
  return expected


CONFIG = DeviceRewardConfig(sizes=(16, 50), chunk_cells=30_000)


@pytest.mark.parametrize("function", ["difflib", "levenshtein"])
def test_scores_are_those_of_the_host(tokenizer, function):
  reward = RewardConfig(function=function, broken_format_reward=-0.5)
  score = jax.jit(DeviceReward(reward, CONFIG, tokenizer))
  rng = random.Random(function)
  batch, branches = fuzz_batch(
    rng, tokenizer, trunks=16, samples=8, chars=45, width=120
  )
  expected = assert_scores_as_host(
    reward, batch, branches, tokenizer, score, 50
  )
  # The compared completions have every failure, and also right formats.
  failures = np.bincount(expected.failure_NKG.ravel(), minlength=len(FAILURES))
  assert (failures > 0).all() and failures[0] > 100
  assert 0 < np.isnan(expected.reward_NKG).sum() < 150


def test_the_reward_by_hand():
  tokenizer = ByteTokenizer()
  good = THINK_OPEN + "t" + THINK_CLOSE
  completions = [
    [
      (good + " abd\n", True),
      (good + "abcd", False),
      ("abcd", True),
      (good, True),
      (good + "abcd" + THINK_CLOSE, True),
    ]
  ]
  # The reward runs outside of jit here.
  score = DeviceReward(RewardConfig(), CONFIG, tokenizer)
  targets = device_reward.encode_targets(make_batch([["abcd "]]), 4)
  found, is_scored_NKG = score(
    make_branches(completions, tokenizer, width=40), targets
  )
  assert is_scored_NKG.all()
  # The ratio is 2 * 3 of 3 + 4 characters.
  expected = [np.float32(6 / 7), -1, -1, -1, -1]
  assert found.reward_NKG[0, 0].tolist() == expected
  np.testing.assert_array_equal(
    found.value_NKG[0, 0], [np.float32(6 / 7), *[np.nan] * 4]
  )
  assert [FAILURES[i] for i in found.failure_NKG[0, 0]] == [
    "",
    "not_stopped",
    "no_thought",
    "empty_action",
    "several_thoughts",
  ]
  assert found.thought_chars_NKG[0, 0].tolist() == [1, 1, 0, 1, 1]
  assert found.action_chars_NKG[0, 0].tolist() == [3, 4, 4, 0, 4]


def test_completions_too_long_are_left_to_the_caller():
  tokenizer = ByteTokenizer()
  good = THINK_OPEN + "t" + THINK_CLOSE
  completions = [
    [
      (good + "a" * 51, True),  # one character too many
      (good + "a" * 50, True),
      ("a" * 60, True),  # no action at all: there is nothing to compare
      (good + "🙂" * 26, True),  # 104 bytes and 15 of the rest
      (good + "🙂" * 20, True),
    ]
  ]
  config = dataclasses.replace(CONFIG, max_text_bytes=118)
  score = jax.jit(DeviceReward(RewardConfig(), config, tokenizer))
  batch = make_batch([["a" * 50]])
  branches = make_branches(completions, tokenizer, width=140)
  found, is_scored_NKG = jax.device_get(
    score(branches, device_reward.encode_targets(batch, 50))
  )
  is_scored = [False, True, True, False, True]
  assert is_scored_NKG[0, 0].tolist() == is_scored
  for field in found[:4]:
    is_number = ~np.isnan(field[0, 0])
    is_number[2:3] |= field is found.value_NKG
    assert is_number.tolist() == is_scored
  assert found.reward_NKG[0, 0, [1, 2, 4]].tolist() == [1, -1, 0]
  assert found.failure_NKG[0, 0].tolist() == [0, 0, 2, 0, 0]


def test_a_small_text_buffer_takes_nothing_from_short_completions():
  # The buffer has the size that the tokens allow, or that of the config.
  tokenizer = ByteTokenizer()
  rng = random.Random(0)
  batch, branches = fuzz_batch(
    rng, tokenizer, trunks=4, samples=4, chars=10, width=40
  )
  for config in (CONFIG, dataclasses.replace(CONFIG, max_text_bytes=250)):
    score = jax.jit(DeviceReward(RewardConfig(), config, tokenizer))
    assert_scores_as_host(RewardConfig(), batch, branches, tokenizer, score, 50)


def test_devices_score_their_own_trunks():
  tokenizer = ByteTokenizer()
  rng = random.Random(1)
  batch, branches = fuzz_batch(
    rng, tokenizer, trunks=8, samples=4, chars=45, width=100
  )
  score = DeviceReward(RewardConfig(), CONFIG, tokenizer)
  split = PartitionSpec("data")
  sharded = jax.shard_map(
    score, mesh=small_mesh(data=4), in_specs=split, out_specs=split
  )
  assert_scores_as_host(
    RewardConfig(), batch, branches, tokenizer, jax.jit(sharded), 50
  )


def test_the_program_is_compiled_once_for_a_run():
  tokenizer = ByteTokenizer()
  rng = random.Random(2)
  score = jax.jit(DeviceReward(RewardConfig(), CONFIG, tokenizer))
  for _ in range(2):
    batch, branches = fuzz_batch(
      rng, tokenizer, trunks=2, samples=2, chars=45, width=60
    )
    score(branches, device_reward.encode_targets(batch, 50))
  assert score._cache_size() == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"function": "answer"}, "'answer' runs on the host only.*difflib and lev"),
    ({"function": "my.module:name"}, "runs on the host only"),
    ({"autojunk": True}, "autojunk is on, which only the host knows"),
    ({"check": "solution"}, "on the device there is only the check 'step'"),
  ],
)
def test_rewards_that_need_the_host_say_so(fields, message):
  with pytest.raises(ValueError, match=f"{message}.*on the host"):
    DeviceReward(RewardConfig(**fields), CONFIG, ByteTokenizer())


def test_targets_that_are_too_long_need_the_host():
  trunks = make_some_trunks([["a", " " + "b" * 50 + "\n"], ["c"]])
  assert device_reward.target_width(trunks) == 50
  assert host_reason(RewardConfig(), CONFIG, 50) == ""
  reason = host_reason(RewardConfig(), CONFIG, 51)
  assert reason.startswith("the longest target has 51 characters, more than")
  batch = make_batch([["a" * 51]])
  with pytest.raises(ValueError, match="51 characters, more than width=50"):
    device_reward.encode_targets(batch, 50)


def test_a_run_without_targets_has_a_width():
  assert device_reward.target_width(make_some_trunks([["", " "]])) == 1
  assert device_reward.target_width([]) == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"sizes": ()}, r"sizes=\(\); give one or more increasing lengths"),
    ({"sizes": (0, 4)}, "increasing lengths"),
    ({"sizes": (8, 8)}, "increasing lengths"),
    ({"sizes": (8, 32768)}, "goes beyond 32767 characters"),
    ({"max_text_bytes": 0}, "max_text_bytes=0; set it to 1 or more"),
    ({"chunk_cells": -1}, "chunk_cells=-1; set it to 0 or more"),
  ],
)
def test_impossible_sizes_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    DeviceRewardConfig(**fields)


@pytest.mark.slow
def test_thousands_of_completions_score_as_on_the_host(tokenizer):
  reward = RewardConfig()
  config = DeviceRewardConfig(sizes=(32, 128, 600))
  score = jax.jit(DeviceReward(reward, config, tokenizer))
  rng = random.Random(3)
  with full_compilation():
    for _ in range(6):
      batch, branches = fuzz_batch(
        rng, tokenizer, trunks=64, samples=8, chars=500, width=800
      )
      assert_scores_as_host(reward, batch, branches, tokenizer, score, 600)
