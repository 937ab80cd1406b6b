# SPDX-License-Identifier: Apache-2.0
"""Packed micro-batches: where branches lie, and that it changes nothing."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

from srl_jax import reductions
from srl_jax.models import LanguageModel, LoraConfig
from srl_jax.models.hf_config import from_hf_config
from srl_jax.testing import families, scripted
from srl_jax.testing.tiny import (
  TINY,
  make_trunk,
  make_trunks,
  random_params,
  separate_prompts,
  separate_rows,
)
from srl_jax.types import make_branches
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.groups import make_groups
from srl_jax.update.grpo import LossConfig, grpo_loss, sft_loss
from srl_jax.update.packing import PackShape, pack, pack_shape


def experience_of(trunks, tokens_NRC, slots_NR, reward_NKG):
  """Returns branches that take so many slots, after stems of a token or two."""
  stem_NR = np.repeat(trunks.stem_length_NK, reward_NKG.shape[-1], axis=1)
  length_NR = np.where(slots_NR > 0, slots_NR + 1, 0)
  is_token_NRC = np.arange(tokens_NRC.shape[-1]) < length_NR[..., None]
  logp_NRC = -tokens_NRC / 10
  branches = make_branches(
    tokens_NRC=np.where(is_token_NRC, tokens_NRC, 0).astype(np.int32),
    stem_length_NR=stem_NR,
    length_NR=length_NR.astype(np.int32),
    sampler_logp_NRC=logp_NRC.astype(np.float32),
    stopped_NR=np.zeros(length_NR.shape, bool),
  )
  counted = branches.is_completion_NRC
  return Experience(
    trunks,
    branches._replace(
      sampler_logp_NRC=np.where(counted, branches.sampler_logp_NRC, 0)
    ),
    reward_NKG.astype(np.float32),
    trunks.is_real_NK,
  )


def groups_of(experience, kept_NK=None, **when):
  trunks, branches, reward_NKG, _ = experience
  kept_NK = trunks.is_real_NK if kept_NK is None else kept_NK
  return make_groups(
    trunks,
    branches,
    reward_NKG,
    np.zeros(kept_NK.shape, np.int32),
    kept_NK,
    **({"update_step": 3, "round_index": 0} | when),
  )


def the_docstrings_example():
  """Groups of trunks x, y and z, whose branches take these slots."""
  trunks = make_trunks(
    [
      make_trunk([1, 2, 3, 4], (4, [9], 1), (2, [9], 2)),
      make_trunk([5, 6], (1, [9], 3)),
      make_trunk([7, 8, 9], (3, [9], 4)),
    ]
  )
  slots_NR = np.array([[2, 4, 3, 2], [3, 1, 0, 0], [2, 0, 0, 0]])
  # Token 10 * branch + place, branches numbered from 1 in each trunk.
  tokens_NRC = np.broadcast_to(
    10 * np.arange(1, 5)[None, :, None] + np.arange(5), (3, 4, 5)
  )
  reward_NKG = np.arange(12.0).reshape(3, 2, 2) ** 2
  return groups_of(experience_of(trunks, tokens_NRC, slots_NR, reward_NKG))


def picture(batch, n):
  """Returns the number of the branch in each slot of a row, as text."""
  found = np.where(batch.position_NBW[n] >= 0, batch.tokens_NBW[n] // 10, 0)
  return ["".join(str(x or ".") for x in lane) for lane in found]


def test_the_docstrings_example_is_packed_as_it_says():
  shape = PackShape(rows=2, trunks=2, lanes=3)
  [batch] = pack(the_docstrings_example(), shape, update_step=3)
  assert picture(batch, 0) == ["2222", "333.", "1144"]
  assert picture(batch, 1) == ["1112", "11..", "...."]
  assert batch.trunk_of_NB.tolist() == [[0, 0, 0], [0, 1, 0]]
  assert batch.trunk_NUS[0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
  assert batch.trunk_NUS[1, :, :3].tolist() == [[5, 6, 0], [7, 8, 9]]
  # No longer than some branch sees.
  assert batch.trunk_length_NU.tolist() == [[4, 0], [1, 3]]
  assert batch.branches_N.tolist() == [4, 3]
  # Branches 1 and 2 of trunk x leave it after 4 tokens, 3 and 4 after 2.
  assert batch.position_NBW[0].tolist() == [
    [4, 5, 6, 7],
    [2, 3, 4, -1],
    [4, 5, 2, 3],
  ]
  assert batch.first_NBW[0, 2].tolist() == [0, 0, 2, 2]
  assert batch.targets_NBW[0, 2].tolist() == [11, 12, 41, 42]
  assert batch.completion_tokens_NBW[0].tolist() == [
    [4, 4, 4, 4],
    [3, 3, 3, 0],
    [2, 2, 2, 2],
  ]
  np.testing.assert_allclose(
    batch.sampler_logp_NBW[0, 2], [-1.1, -1.2, -4.1, -4.2], rtol=1e-6
  )
  # The better sample of each group is the second: 1, 4; 9, 16.
  np.testing.assert_allclose(batch.advantage_NBW[0, 2], [-1, -1, 1, 1])
  assert batch.is_fresh_NBW[0].tolist() == (batch.position_NBW[0] >= 0).tolist()


def test_a_trunk_with_more_lanes_than_there_are_goes_to_several_rows():
  shape = PackShape(rows=1, trunks=2, lanes=2)
  first, second, third = pack(the_docstrings_example(), shape, update_step=3)
  assert picture(first, 0) == ["2222", "333."]
  assert picture(second, 0) == ["1112", "11.."]
  # The rest of trunk x sees as much of it as before.
  assert picture(third, 0) == ["1144", "...."]
  for batch in (first, third):
    assert batch.trunk_NUS[0, 0].tolist() == [1, 2, 3, 4]
    assert batch.trunk_length_NU.tolist() == [[4, 0]]


def test_empty_rows_fill_up_the_last_micro_batch():
  shape = PackShape(rows=4, trunks=2, lanes=3)
  [batch] = pack(the_docstrings_example(), shape, update_step=3)
  for n in (2, 3):
    assert picture(batch, n) == ["....", "....", "...."]
    assert not batch.trunk_length_NU[n].any() and not batch.branches_N[n]
    assert not batch.completion_tokens_NBW[n].any()
    assert not batch.advantage_NBW[n].any() and not batch.is_fresh_NBW[n].any()
  none = the_docstrings_example().pick(slice(0))
  [empty] = pack(none, shape, update_step=3)
  assert [(x.shape, x.dtype) for x in empty] == [
    (x.shape, x.dtype) for x in batch
  ]
  assert (empty.position_NBW == -1).all()


def test_only_groups_of_this_step_are_fresh():
  groups = the_docstrings_example()
  groups = groups._replace(born_P=np.array([3, 4, 4, 4]))
  [batch] = pack(groups, PackShape(1, 4, 6), update_step=4)
  # The first group is branches 1 and 2 of trunk x.
  assert picture(batch, 0)[:3] == ["2222", "333.", "1144"]
  assert batch.is_fresh_NBW[0, :3].tolist() == [
    [False] * 4,
    [True] * 3 + [False],
    [False, False, True, True],
  ]


def test_nothing_is_lost_or_doubled():
  rng = np.random.default_rng(0)
  seen, lanes_used = [], []
  for shape in (PackShape(2, 2, 5), PackShape(1, 1, 2), PackShape(3, 3, 9)):
    trunks = make_trunks(
      [
        make_trunk(range(1, 5), *((k + 1, [1], 10 * n + k) for k in range(4)))
        for n in range(9)
      ]
    )
    slots_NR = rng.integers(1, 9, (9, 12))
    # A token says its branch and its place in it.
    tokens_NRC = 100 * np.arange(108).reshape(9, 12, 1) + np.arange(9)
    rewards = rng.random((9, 4, 3))
    groups = groups_of(
      experience_of(trunks, tokens_NRC, slots_NR, rewards),
      rng.random((9, 4)) < 0.5,
    )
    want = collections.Counter(
      int(x)
      for x, is_token in zip(
        groups.batch.branches.tokens_NRC[..., :-1].ravel(),
        (np.arange(8) < groups.batch.branches.length_NR[..., None] - 1).ravel(),
        strict=True,
      )
      if is_token
    )
    found = collections.Counter()
    for batch in pack(groups, shape, update_step=3):
      is_token = batch.position_NBW >= 0
      found.update(batch.tokens_NBW[is_token].tolist())
      np.testing.assert_array_equal(
        batch.targets_NBW[is_token], batch.tokens_NBW[is_token] + 1
      )
      lanes_used.append(is_token.any(-1).mean())
    assert found == want
    seen.append(sum(found.values()))
  assert min(seen) > 100 and np.mean(lanes_used) > 0.5


@pytest.mark.parametrize(
  ("trunks", "multiple", "filled", "shape"),
  [
    # Rows of two trunks, each device one; a quarter of 2 * 16 branches.
    (16, 8, 0.25, PackShape(8, 2, 8)),
    # Rows of two would leave devices without one.
    (8, 8, 0.25, PackShape(8, 1, 4)),
    (24, 8, 0.25, PackShape(24, 1, 4)),
    # No more lanes than branches, and at least one.
    (2, 1, 3.0, PackShape(1, 2, 32)),
    (1, 1, 0.0, PackShape(1, 1, 1)),
  ],
)
def test_the_shape_follows_from_trunks_and_branches(
  trunks, multiple, filled, shape
):
  got = pack_shape(trunks, multiple=multiple, branches=16, filled=filled)
  assert got == shape


def separate(experience):
  """Returns a row of its own for each group, its prompt cut to what it sees."""
  trunks, branches, reward_NKG, is_fresh_NK = experience
  rows = lambda x_NR: separate_rows(x_NR, trunks)  # noqa: E731
  return Experience(
    separate_prompts(trunks),
    type(branches)(*map(rows, branches)),
    rows(reward_NKG)[:, None, 0],
    rows(is_fresh_NK),
  )


def random_experience(vocab):
  rng = np.random.default_rng(0)
  trunks = make_trunks(
    [
      make_trunk(rng.integers(1, vocab, 12), (5, [3], 1), (12, [4, 5], 2)),
      make_trunk(rng.integers(1, vocab, 9), (4, [6, 3], 3)),
      make_trunk(rng.integers(1, vocab, 11), (9, [7], 4), (10, [8], 5)),
    ]
  )
  # Longer than the windows of the models, which are 7.
  slots_NR = rng.integers(3, 13, (3, 8)) * trunks.is_real_NK.repeat(4, 1)
  tokens_NRC = rng.integers(1, vocab, (3, 8, 14))
  experience = experience_of(
    trunks, tokens_NRC, slots_NR, rng.random((3, 2, 4))
  )
  # Some log-probs at which ratios are clipped and others at which not.
  logp_NRC = rng.uniform(-5, -2, tokens_NRC.shape).astype(np.float32)
  counted = experience.branches.is_completion_NRC
  return experience._replace(
    branches=experience.branches._replace(
      sampler_logp_NRC=np.where(counted, logp_NRC, np.float32(0))
    )
  )


def total(loss_fn, params, batches, reference):
  """Returns (gradient, loss, metrics) of all micro-batches together."""

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(params, batch):
    loss, metrics = loss_fn(params, batch, reference)
    return loss.numerator, (loss, metrics)

  parts = [jax.device_get(gradient(params, batch)) for batch in batches]
  count = sum(loss.denominator for _, (loss, _) in parts)
  summed = jax.tree.map(lambda *x: sum(x) / count, *(g for g, _ in parts))
  metrics = reductions.reduce_metrics([m for _, (_, m) in parts])
  return summed, sum(loss.numerator for _, (loss, _) in parts) / count, metrics


def assert_same(got, want):
  (ours, loss, metrics), (theirs, other_loss, others) = got, want
  norm = lambda tree: np.sqrt(  # noqa: E731
    sum((np.float64(x) ** 2).sum() for x in jax.tree.leaves(tree))
  )
  assert norm(theirs) > 0.01
  # Float32 sums through several layers in another order: 5e-5 in the deepest
  # model. A wrong position, trunk or neighbour changes it by 0.1 and more.
  difference = jax.tree.map(np.subtract, ours, theirs)
  assert norm(difference) < 3e-4 * norm(theirs)
  np.testing.assert_allclose(loss, other_loss, rtol=1e-4, atol=1e-5)
  assert metrics.pop("positions_used") != others.pop("positions_used")
  for name, value in metrics.items():
    np.testing.assert_allclose(
      value, others[name], rtol=2e-4, atol=2e-5, err_msg=name
    )


SHAPES = (PackShape(2, 2, 3), PackShape(1, 1, 2))


def compare(model, params, config, shape, reference=None):
  experience = random_experience(model.config.vocab_size)
  loss_fn = grpo_loss(model, config, 0.7)
  packed = pack(
    groups_of(experience),
    shape,
    update_step=3,
    divide_by_std=config.divide_by_group_std,
  )
  rows = one_branch_per_lane(
    separate(experience), divide_by_std=config.divide_by_group_std
  )
  assert_same(
    total(loss_fn, params, packed, reference),
    total(loss_fn, params, [rows], reference),
  )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
  "config",
  [
    LossConfig(),
    LossConfig(aggregation="token_mean", surrogate="truncated"),
    LossConfig(
      aggregation="fixed_divisor",
      divisor_tokens=9,
      surrogate="dual_clipped",
      divide_by_group_std=False,
    ),
    LossConfig(kl_coefficient=0.3, max_logits=100),
  ],
  ids=["sequence", "token", "fixed", "kl"],
)
def test_packed_branches_have_the_gradient_of_separate_rows(config, shape):
  model = LanguageModel(TINY)
  params, reference = (random_params(model, seed) for seed in (0, 1))
  compare(model, params, config, shape, reference)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "qwen3"])
def test_windows_and_soft_caps_do_not_tell_lanes_from_rows(family):
  config = dataclasses.replace(
    from_hf_config(families.CONFIGS[family]), attention_logits=400
  )
  model = LanguageModel(config)
  compare(model, random_params(model), LossConfig(), SHAPES[0])


def test_adapters_do_not_tell_lanes_from_rows():
  adapted = dataclasses.replace(TINY, lora=LoraConfig(rank=2, alpha=4.0))
  model = LanguageModel(adapted)
  compare(model, random_params(model), LossConfig(), SHAPES[0])


def test_the_experts_branches_are_packed_alike():
  model = LanguageModel(TINY)
  experience = random_experience(32)
  loss_fn = sft_loss(model, max_logits=0)
  packed = pack(groups_of(experience), SHAPES[0], update_step=4)
  assert_same(
    total(loss_fn, random_params(model), packed, None),
    total(
      loss_fn,
      random_params(model),
      [one_branch_per_lane(separate(experience))],
      None,
    ),
  )


def test_positions_used_counts_tokens_of_trunks_and_lanes():
  [batch] = pack(the_docstrings_example(), PackShape(2, 2, 3), update_step=3)
  script = scripted.after_token(np.zeros((50, 50)))
  loss_fn = sft_loss(scripted.ScriptedModel(), max_logits=0)
  _, metrics = jax.jit(loss_fn)(script, batch, None)
  got = reductions.reduce_metrics([metrics])["positions_used"]
  # Trunks of 4, 1 and 3 tokens in 4 places of 4; 17 slots of 24.
  assert got == (8 + 17) / (16 + 24)
