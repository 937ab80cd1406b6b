# SPDX-License-Identifier: Apache-2.0
"""Packed branches have the values and gradients of branches in rows."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from srl_jax import reductions
from srl_jax.models import LanguageModel, LoraConfig
from srl_jax.models.hf_config import from_hf_config
from srl_jax.ops import logprobs
from srl_jax.policy import trunk_positions
from srl_jax.testing.tiny import (
  TINY,
  make_trunk,
  make_trunks,
  random_params,
  separate_prompts,
  separate_rows,
)
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.grpo import (
  LossConfig,
  grpo_loss,
  lane_logps,
  sft_loss,
)
from srl_jax.update.packing import PackShape, pack
from tests.support import families
from tests.support.packed import experience_of, groups_of


def separate(experience):
  """Returns a row of its own for each group, its prompt cut to what it sees."""
  trunks, branches, reward_NKG = experience
  rows = lambda x_NR: separate_rows(x_NR, trunks)  # noqa: E731
  return Experience(
    separate_prompts(trunks),
    type(branches)(*map(rows, branches)),
    rows(reward_NKG)[:, None, 0],
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
  cells_NR = rng.integers(3, 13, (3, 8)) * trunks.is_real_NK.repeat(4, 1)
  tokens_NRC = rng.integers(1, vocab, (3, 8, 14))
  experience = experience_of(
    trunks, tokens_NRC, cells_NR, rng.random((3, 2, 4))
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


def assert_same(got, want, is_packed_alike=False):
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
  used = [x.pop("positions_used") for x in (metrics, others)]
  assert (used[0] == used[1]) == is_packed_alike
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


FIXED = LossConfig(
  aggregation="fixed_divisor",
  divisor_tokens=9,
  surrogate="dual_clipped",
  divide_by_group_std=False,
)


# Both have windows; Gemma 2 has soft caps, Gemma 3 normalised keys.
FAMILIES = ["gemma2", pytest.param("gemma3", marks=pytest.mark.slow)]


@pytest.mark.parametrize(
  ("config", "shape"),
  [
    (LossConfig(), SHAPES[0]),
    (LossConfig(), SHAPES[1]),
    pytest.param(
      LossConfig(
        aggregation="token_mean", surrogate="truncated", ratio="sequence"
      ),
      SHAPES[0],
      marks=pytest.mark.slow,
    ),
    pytest.param(FIXED, SHAPES[1], marks=pytest.mark.slow),
    (LossConfig(kl_coefficient=0.3, max_logits=100), SHAPES[0]),
  ],
  ids=["sequence", "one trunk", "token", "fixed", "kl"],
)
def test_packed_branches_have_the_gradient_of_separate_rows(config, shape):
  model = LanguageModel(TINY)
  params, reference = (random_params(model, seed) for seed in (0, 1))
  compare(model, params, config, shape, reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_soft_caps_do_not_tell_lanes_from_rows(family):
  config = dataclasses.replace(
    from_hf_config(families.CONFIGS[family]), attention_logits=400
  )
  model = LanguageModel(config)
  compare(model, random_params(model), LossConfig(), SHAPES[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_lanes_see_through_the_windows_that_the_sampler_sees_through(family):
  model = LanguageModel(from_hf_config(families.CONFIGS[family]))
  params = random_params(model)
  experience = random_experience(model.config.vocab_size)
  trunks = experience.trunks
  [packed] = pack(groups_of(experience), PackShape(3, 2, 8), update_step=3)
  rows = one_branch_per_lane(experience)

  @jax.jit
  def by_position(params):
    kv = model.trunk(
      params,
      trunks.tokens_NS,
      trunk_positions(trunks.length_N, trunks.tokens_NS.shape[1]),
    )
    # As the sampler runs them: the window counts positions.
    hidden, _ = model.branch(
      params,
      rows.tokens_NBW,
      rows.position_NBW,
      np.repeat(trunks.branch_at_NK, 4, axis=1),
      kv,
    )
    return logprobs.token_logps(
      model.head(params), hidden, rows.targets_NBW, temperature=1, max_logits=0
    ).logp

  by_cell = jax.jit(
    functools.partial(lane_logps, model, temperature=1, max_logits=0)
  )
  found = []
  for batch, logp in (
    (rows, by_position(params)),
    (rows, by_cell(params, rows).logp),
    (packed, by_cell(params, packed).logp),
  ):
    is_counted = np.asarray(batch.completion_tokens_NBW) > 0
    # Tokens of a branch are known by themselves, their targets and log-probs.
    keys = zip(
      np.asarray(batch.tokens_NBW)[is_counted].tolist(),
      np.asarray(batch.targets_NBW)[is_counted].tolist(),
      np.asarray(batch.sampler_logp_NBW)[is_counted].tolist(),
      strict=True,
    )
    values = np.asarray(logp)[is_counted].tolist()
    found.append(dict(zip(keys, values, strict=True)))
  first, *others = found
  assert len(first) > 100
  for other in others:
    assert other.keys() == first.keys()
    # Float32 through up to seven layers; a wider window moves it by 0.1.
    np.testing.assert_allclose(
      [other[key] for key in first], list(first.values()), atol=1e-3
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_does_not_tell_itself_from_matrix_products(family):
  plain = from_hf_config(families.CONFIGS[family])
  params = random_params(LanguageModel(plain))
  groups = groups_of(random_experience(plain.vocab_size))
  packed = list(pack(groups, SHAPES[0], update_step=3))
  found = []
  for kernel in ("tree", "plain"):
    model = LanguageModel(dataclasses.replace(plain, lane_kernel=kernel))
    loss_fn = grpo_loss(model, LossConfig(), 0.7)
    found.append(total(loss_fn, params, packed, None))
  assert_same(*found, is_packed_alike=True)


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
