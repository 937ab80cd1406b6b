# SPDX-License-Identifier: Apache-2.0
"""A turn: equal prompts share a trunk where that computes less."""

import itertools

import numpy as np
import pytest

from srl_jax.rewards import Completion
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.turns import Prompt, sample_turn
from srl_jax.testing.scripted import ScriptedSampler
from srl_jax.testing.trajectories import sums
from srl_jax.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
STOP = TOKENIZER.special_id("</s>")


def take_turn(texts, most_equal, rows_per_batch=100, new_tokens=10):
  """Returns the batches that prompts of these texts become, and trunk tokens.

  Every completion is the number of its branch, which identifies it.
  """
  numbers = itertools.count()
  sampler = ScriptedSampler(
    TOKENIZER,
    lambda _: Completion(str(next(numbers)), True),
    stop_id=STOP,
    config=SamplingConfig(samples=1, max_new_tokens=new_tokens),
  )
  prompts = [
    Prompt(sums(), np.array(TOKENIZER.encode(text), np.int32), 1000 + i)
    for i, text in enumerate(texts)
  ]
  found, trunk_tokens = sample_turn(
    sampler,
    None,
    prompts,
    None,
    stem=TOKENIZER.encode("go:"),
    step=0,
    most_equal=most_equal,
    rows_per_batch=rows_per_batch,
    tokenizer=TOKENIZER,
  )
  assert len(found) == len(texts)
  names = [
    point_id
    for trunks in sampler.batches
    for point_id in trunks.point_id_NK[trunks.is_real_NK].tolist()
  ]
  # Each completion returns to its prompt, and each prompt has its name.
  assert [names[int(number)] for number in found] == [
    1000 + i for i in range(len(texts))
  ]
  assert sorted(sampler.prompts) == sorted(f"{text}go:" for text in texts)
  return sampler.batches, trunk_tokens


def shapes(batches):
  """Returns (trunks, width, branch points) of each batch."""
  return [
    (*trunks.tokens_NS.shape, trunks.branch_at_NK.shape[1])
    for trunks in batches
  ]


def test_equal_prompts_share_a_trunk():
  batches, trunk_tokens = take_turn(["ab", "cde", "ab", "cde", "ab"], 3)
  assert shapes(batches) == [(100 // 3, 64, 3)]
  [trunks] = batches
  assert trunks.is_real_NK[:3].tolist() == [
    [True] * 3,
    [True, True, False],
    [False] * 3,
  ]
  assert trunks.length_N[:3].tolist() == [2, 3, 0]
  assert trunk_tokens == 2 + 3
  # All branches hang off the end of their trunk.
  assert trunks.branch_at_NK[:2].tolist() == [[2, 2, 2], [3, 3, 0]]


def test_different_prompts_have_a_trunk_each():
  batches, trunk_tokens = take_turn(["a", "b", "c", "d"], 3, rows_per_batch=4)
  assert shapes(batches) == [(4, 64, 1)]
  assert trunk_tokens == 4


@pytest.mark.parametrize(
  ("new_tokens", "rows_per_batch", "points"),
  [
    # Two trunks with room for three prompts each take 2 (64 + 3 C) positions,
    # four trunks 4 (64 + C): equal at C = 64, which has 3 stem tokens.
    (60, 4, 3),
    (61, 4, 1),
    (62, 4, 1),
    # Four trunks would be padded to eight.
    (62, 8, 3),
  ],
)
def test_the_layout_that_computes_fewer_positions_is_taken(
  new_tokens, rows_per_batch, points
):
  batches, _ = take_turn(
    ["a", "a", "b", "b"],
    3,
    rows_per_batch=rows_per_batch,
    new_tokens=new_tokens,
  )
  assert {k for _, _, k in shapes(batches)} == {points}


def test_no_more_prompts_are_decoded_together_than_there_are_rows():
  batches, trunk_tokens = take_turn(["ab"] * 7, 7, rows_per_batch=3)
  assert shapes(batches) == [(1, 64, 3)] * 3
  assert trunk_tokens == 2 * 3


def test_more_equal_prompts_than_usual_take_another_trunk():
  # This happens when two problems have the same text.
  batches, trunk_tokens = take_turn(["ab"] * 4, 2, rows_per_batch=4)
  assert shapes(batches) == [(2, 64, 2)]
  assert trunk_tokens == 2 * 2


def test_the_width_of_a_turn_is_that_of_its_longest_prompt_in_steps_of_64():
  batches, _ = take_turn(["a" * 64, "b"], 1)
  assert shapes(batches) == [(100, 64, 1)]
  batches, _ = take_turn(["a" * 65, "b"], 1)
  assert shapes(batches) == [(100, 128, 1)]
