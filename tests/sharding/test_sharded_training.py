# SPDX-License-Identifier: Apache-2.0
"""Eight devices sample and train as one does, and every array stays put."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.ops import tree_attention
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.sharding import ShardingRules
from srl_jax.testing.tiny import (
  TINY,
  four_trunks,
  make_trunk,
  make_trunks,
  put_params,
  random_params,
  small_mesh,
)
from srl_jax.types import make_branches
from srl_jax.update import optim
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.groups import make_groups
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.packing import PackShape, pack
from srl_jax.update.updater import Updater

RULES = ShardingRules()
MODEL = LanguageModel(TINY)
TRUNKS = four_trunks()
SAMPLING = SamplingConfig(samples=2, max_new_tokens=4)
VALUES = jax.tree.map(np.array, random_params(MODEL))


def train(mesh):
  """Samples once and takes three steps; everything as numpy, by device."""
  with jax.set_mesh(mesh):
    params = put_params(VALUES, MODEL, mesh, RULES)
    sampler = Sampler(
      MODEL, SAMPLING, stop_ids=(0, 20), pad_id=0, mesh=mesh, rules=RULES
    )
    config = optim.OptimConfig(learning_rate=1e-2)
    updater = Updater(
      grpo_loss(MODEL, LossConfig(kl_coefficient=0.1), 1.0),
      optim.make_optimizer(config, 3),
      optim.learning_rate(config, 3),
      params,
      mesh,
    )
    reference = put_params(VALUES, MODEL, mesh, RULES)
    state = updater.init(params)
    first = jax.tree.map(lambda x: x.sharding, state)
    sampled, metrics = [], []
    for step in range(3):
      branches = sampler.sample(state.params, TRUNKS, jax.random.key(step))
      rewards = np.random.default_rng(step).random((4, 2, 2))
      batch = Experience(TRUNKS, branches, rewards.astype(np.float32))
      lanes = one_branch_per_lane(batch)
      placed = sharding.put_batch(lanes, mesh, RULES)
      state, of_batch, of_step = updater.update(
        state, [placed, placed], step, reference
      )
      sampled.append(branches)
      metrics.append(jax.device_get((of_batch, of_step)))
    return types.SimpleNamespace(
      updater=updater,
      sampled=sampled,
      metrics=metrics,
      state=state,
      first=first,
      last=jax.tree.map(lambda x: x.sharding, state),
      programs=(
        sampler.prefill._cache_size(),
        sampler.decode._cache_size(),
        updater.accumulate._cache_size(),
        updater.finish._cache_size(),
      ),
    )


@pytest.fixture(scope="module")
def one():
  return train(small_mesh())


@pytest.fixture(scope="module")
def eight():
  return train(small_mesh(2, 2, 2))


def assert_same_run(got, want):
  for a, b in zip(got.sampled, want.sampled, strict=True):
    np.testing.assert_array_equal(a.tokens_NRC, b.tokens_NRC)
    np.testing.assert_array_equal(a.stopped_NR, b.stopped_NR)
    # Float32 sums in another order, through two layers; later steps start
    # from parameters that differ by as much.
    np.testing.assert_allclose(
      a.sampler_logp_NRC, b.sampler_logp_NRC, rtol=1e-3, atol=1e-4
    )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4),
    got.metrics,
    want.metrics,
  )
  # Adam's first steps have the size of the rate, 0.01, whatever the gradient,
  # so a gradient near zero may turn rounding into some per cent of a step.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
    jax.device_get(got.state.params),
    jax.device_get(want.state.params),
  )


def test_eight_devices_compute_what_one_computes(one, eight):
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(),
    jax.device_get(one.state.params),
    VALUES,
  )
  # Three steps at a rate of 0.01: twenty times the tolerance below.
  assert min(jax.tree.leaves(moved)) > 0.02
  assert_same_run(eight, one)


@pytest.mark.slow
@pytest.mark.parametrize(
  "shape", [(4, 1, 2), (1, 4, 2), (4, 1, 1), (1, 4, 1), (1, 1, 2), (2, 2, 1)]
)
def test_every_mesh_computes_what_one_device_computes(one, shape):
  assert_same_run(train(small_mesh(*shape)), one)


def test_a_step_leaves_every_array_where_it_was(eight):
  assert eight.first == eight.last
  abstract = eight.updater.abstract_state()
  assert jax.tree.map(lambda x: x.sharding, abstract) == eight.last


def test_parameters_are_split_as_the_rules_say(eight):
  leaves = traverse_util.flatten_dict(eight.state.params, sep="/")
  specs = {name: x.sharding.spec for name, x in leaves.items()}
  p = PartitionSpec
  assert specs["embedding"] == p("tensor", "fsdp")
  assert specs["blocks/attention/q"] == p(None, "fsdp", "tensor", None, None)
  assert specs["blocks/attention/k"] == p(None, "fsdp", "tensor", None)
  assert specs["blocks/attention/o"] == p(None, "tensor", None, None, "fsdp")
  assert specs["blocks/mlp/gate"] == p(None, "fsdp", "tensor")
  assert specs["blocks/mlp/down"] == p(None, "tensor", "fsdp")
  for name, x in leaves.items():
    parts = 4 if "/" not in name or x.ndim > 2 else 1
    parts = 2 if name.endswith(("k_bias", "v_bias", "q_bias")) else parts
    parts = 1 if name.endswith("scale") else parts
    [size] = {s.data.size for s in x.addressable_shards}
    assert size * parts == x.size, name


def test_moments_live_with_their_parameters(eight):
  [adam] = [
    x
    for x in jax.tree.leaves(
      eight.state.opt_state, is_leaf=lambda x: hasattr(x, "mu")
    )
    if hasattr(x, "mu")
  ]
  of = lambda tree: jax.tree.map(lambda x: x.sharding, tree)  # noqa: E731
  assert of(adam.mu) == of(adam.nu) == of(eight.state.params)
  assert adam.count.sharding.is_fully_replicated
  assert adam.count == 3


@pytest.mark.parametrize("run", ["one", "eight"])
def test_three_steps_need_one_program_each(run, request):
  assert request.getfixturevalue(run).programs == (1, 1, 1, 1)


def packed_batch():
  """Rows of two trunks each, a row for every device."""
  rng = np.random.default_rng(0)
  trunks = make_trunks(
    [
      make_trunk(rng.integers(1, 32, 9), (4, [3], 2 * n), (9, [4], 2 * n + 1))
      for n in range(16)
    ]
  )
  length_NR = rng.integers(3, 9, (16, 4))
  tokens_NRC = rng.integers(1, 32, (16, 4, 8))
  groups = make_groups(
    trunks,
    make_branches(
      tokens_NRC=tokens_NRC.astype(np.int32),
      stem_length_NR=np.ones_like(length_NR),
      length_NR=length_NR.astype(np.int32),
      sampler_logp_NRC=np.full(tokens_NRC.shape, -3, np.float32),
      stopped_NR=np.ones(length_NR.shape, bool),
    ),
    rng.random((16, 2, 2)),
    np.zeros((16, 2), np.int32),
    trunks.is_real_NK,
    update_step=0,
    round_index=0,
  )
  [batch] = pack(groups, PackShape(rows=8, trunks=2, lanes=8), update_step=0)
  assert (batch.trunk_of_NB == 1).any(-1).all()
  return batch


def gradient_of(batch, mesh, rules=RULES, **changes):
  """The gradient of a batch, and the program that found it."""
  config = dataclasses.replace(MODEL.config, **changes)
  loss_fn = grpo_loss(LanguageModel(config, rules), LossConfig(), 1.0)

  @jax.jit
  def gradient(params, batch):
    return jax.grad(lambda p: loss_fn(p, batch, None)[0].numerator)(params)

  with jax.set_mesh(mesh):
    whole = jax.device_put(VALUES, sharding.replicated(mesh))
    args = (whole, sharding.put_batch(batch, mesh, rules))
    program = gradient.lower(*args).compile()
    return jax.device_get(gradient(*args)), program


def assert_same_gradients(got, want):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
    got,
    want,
  )


@pytest.mark.parametrize(
  "kernel", [pytest.param("plain", marks=pytest.mark.slow), "tree"]
)
def test_lanes_find_the_keys_of_their_trunk_on_their_own_device(kernel):
  batch = packed_batch()
  want, _ = gradient_of(batch, small_mesh(), lane_kernel=kernel)
  got, program = gradient_of(batch, small_mesh(data=8), lane_kernel=kernel)
  # Parameters are on every device, so only gradients are sent.
  text = program.as_text()
  assert "all-reduce" in text
  for other in ("all-gather", "all-to-all", "collective-permute"):
    assert other not in text, other
  assert_same_gradients(got, want)


@pytest.mark.parametrize(
  ("kernel", "window"),
  [("plain", 0), pytest.param("tree", 0, marks=pytest.mark.slow), ("tree", 5)],
)
def test_a_row_may_be_split_over_devices(monkeypatch, kernel, window):
  # Small blocks, or padding would be most of a row.
  monkeypatch.setattr(tree_attention, "_SIZES", {16: 1.0})
  batch = packed_batch()
  changes = {"lane_kernel": kernel, "sliding_window": window}
  want, whole = gradient_of(batch, small_mesh(data=2), **changes)
  rules = ShardingRules(tokens="tensor")
  mesh = small_mesh(data=2, tensor=2)
  got, split = gradient_of(batch, mesh, rules, **changes)
  assert_same_gradients(got, want)
  # Each device computes its own tokens.
  cost, of_rows = (x.cost_analysis()["flops"] for x in (split, whole))
  assert cost < 0.7 * of_rows
