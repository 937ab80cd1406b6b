# SPDX-License-Identifier: Apache-2.0
"""Where each array lives: meshes, rules, weights, rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.ops import logprobs
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.sharding import MESH_AXES, MeshConfig, ShardingRules
from srl_jax.testing.tiny import (
  TINY,
  four_trunks,
  put_params,
  random_params,
  small_mesh,
)

RULES = ShardingRules()


def sizes(**fields):
  return tuple(sharding.make_mesh(MeshConfig(**fields)).shape.values())


def test_minus_one_takes_the_devices_that_remain():
  assert sizes() == (8, 1, 1)
  assert sizes(data=2, fsdp=-1) == (2, 4, 1)
  assert sizes(data=2, fsdp=2, tensor=2) == (2, 2, 2)
  assert sharding.make_mesh(MeshConfig()).axis_names == MESH_AXES


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"fsdp": 3}, r"does not fit 8 devices; set c\.mesh\.data"),
    ({"data": -1, "fsdp": -1}, "at most one of them -1"),
    ({"data": -2}, "does not fit 8 devices"),
    ({"data": 0}, "does not fit 8 devices"),
    ({"data": 16}, "does not fit 8 devices"),
    ({"data": 2, "fsdp": 2}, "uses 4 of 8 devices; set c.mesh.data=-1"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(MeshConfig(**fields))


def test_rules_map_names_to_mesh_axes():
  assert RULES.spec(("batch", None, "vocab", "layers")) == PartitionSpec(
    ("data", "fsdp"), None, "tensor", None
  )
  rules = ShardingRules(batch="data", vocab=None)
  assert rules.spec(("batch", "vocab")) == PartitionSpec("data", None)


@pytest.mark.parametrize("axes", ["fdsp", ("data", "fdsp")])
def test_a_rule_for_no_mesh_axis_is_refused(axes):
  with pytest.raises(
    ValueError, match=r"'fdsp' is no mesh axis; set c\.rules\."
  ):
    ShardingRules(embed=axes)


def test_the_batch_is_split_over_its_axes_only():
  mesh = small_mesh(2, 2, 2)
  count = functools.partial(sharding.batch_devices, mesh)
  assert count(RULES) == 4
  assert count(ShardingRules(batch="data")) == 2
  assert count(ShardingRules(batch=None)) == 1


def test_rows_go_to_the_devices_and_come_back():
  mesh = small_mesh(2, 2, 2)
  rows = {"x": np.arange(24).reshape(8, 3), "y": np.arange(8)}
  placed = sharding.put_batch(rows, mesh, RULES)
  assert placed["x"].sharding.spec == PartitionSpec(("data", "fsdp"))
  assert {s.data.shape for s in placed["x"].addressable_shards} == {(2, 3)}
  back = sharding.read(sharding.for_every_process(placed, mesh))
  assert isinstance(back["x"], np.ndarray)
  np.testing.assert_array_equal(back["x"], rows["x"])
  # With one process there is nothing to gather.
  assert sharding.gather_rows(rows, 8) is rows
  np.testing.assert_array_equal(sharding.own_rows(rows)["x"], rows["x"])


def test_rows_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match=r"batch of 6 trunks .* multiples of 4"):
    sharding.put_batch(np.zeros((6, 2)), small_mesh(2, 2, 2), RULES)


def test_outside_of_a_mesh_nothing_is_pinned():
  x = jnp.ones(4)
  assert sharding.constrain(x, ("batch",), RULES) is x
  with jax.set_mesh(small_mesh(2, 2, 2)):
    pinned = jax.jit(lambda x: sharding.constrain(x, ("batch",), RULES))(x)
  assert pinned.sharding.spec == PartitionSpec(("data", "fsdp"))


def test_each_device_gets_its_part_and_what_does_not_divide_whole():
  seen = []

  def double(x_NHE, y_NE):
    seen.append((x_NHE.shape, y_NE.shape))
    return 2 * x_NHE + y_NE[:, None]

  axes = ("batch", "kv_heads", None)
  function = sharding.per_device(double, (axes, (axes[0], None)), axes, RULES)
  x, y = np.arange(24.0).reshape(4, 2, 3), np.ones((4, 3))
  np.testing.assert_array_equal(function(x, y), 2 * x + 1)
  with jax.set_mesh(small_mesh(2, 2, 2)):
    got = jax.jit(function)(x, y)
    # One row does not divide over four devices; its heads do over two.
    np.testing.assert_array_equal(jax.jit(function)(x[:1], y[:1]), got[:1])
  np.testing.assert_array_equal(got, 2 * x + 1)
  assert seen == [
    ((4, 2, 3), (4, 3)),
    ((1, 1, 3), (1, 3)),
    ((1, 1, 3), (1, 3)),
  ]
  assert got.sharding.spec[:2] == (("data", "fsdp"), "tensor")


def test_the_kind_of_device_is_that_of_the_mesh():
  assert sharding.device_kind() == jax.devices()[0].device_kind == "cpu"
  # JAX 0.7 does not ask for the last of these.
  asked = len(dataclasses.fields(jax.sharding.AbstractDevice))
  device = jax.sharding.AbstractDevice(*("TPU v5 lite", 1, "tpu")[:asked])
  mesh = jax.sharding.AbstractMesh(
    (1,),
    ("data",),
    axis_types=(jax.sharding.AxisType.Auto,),
    abstract_device=device,
  )
  with jax.sharding.use_abstract_mesh(mesh):
    assert sharding.device_kind() == "TPU v5 lite"


def test_arrays_are_born_where_their_names_say():
  def init(key):
    boxed = nn.with_logical_partitioning(
      nn.initializers.normal(), ("vocab", "embed")
    )
    return {"named": boxed(key, (4, 6)), "plain": jnp.zeros(3)}

  mesh = small_mesh(2, 2, 2)
  got = sharding.born_sharded(init, jax.random.key(0), mesh=mesh, rules=RULES)
  assert got["named"].sharding == NamedSharding(
    mesh, PartitionSpec("tensor", "fsdp")
  )
  assert {s.data.shape for s in got["named"].addressable_shards} == {(2, 3)}
  assert got["plain"].sharding.is_fully_replicated
  # The same numbers wherever they live.
  one = sharding.born_sharded(
    init, jax.random.key(0), mesh=small_mesh(), rules=RULES
  )
  np.testing.assert_array_equal(got["named"], one["named"])


MODEL = LanguageModel(TINY)
TRUNKS = four_trunks()
SAMPLING = SamplingConfig(samples=2, max_new_tokens=4)
VALUES = jax.tree.map(np.array, random_params(MODEL))


def zeros(model):
  """Parameters of a model; as good as others where only places matter."""
  abstract = nn.unbox(jax.eval_shape(model.init, jax.random.key(0)))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)


def test_without_tensor_parallelism_odd_heads_are_fine():
  # Three key/value heads do not divide over two devices; other rules do.
  config = dataclasses.replace(TINY, n_heads=3, n_kv_heads=3)
  rules = ShardingRules(kv_heads=None)
  model, mesh = LanguageModel(config, rules), small_mesh(2, 2, 2)
  with pytest.raises(
    ValueError, match="3 kv_heads do not divide over 2 devices"
  ):
    put_params(zeros(model), model, mesh, RULES)
  params = put_params(zeros(model), model, mesh, rules)
  spec = params["blocks"]["attention"]["k"].sharding.spec
  assert spec == PartitionSpec(None, "fsdp", None, None)


def test_a_split_vocabulary_is_scored_where_its_rows_lie():
  mesh = sharding.make_mesh(MeshConfig(data=2, tensor=4))
  rng = np.random.default_rng(0)
  # Two blocks on each of four devices.
  table_VD = rng.standard_normal((8192, 4)).astype(np.float32)
  hidden_NRCD = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
  tokens_NRC = rng.integers(0, 8192, (2, 3, 5))

  def total(table_VD, hidden_NRCD, devices):
    logp_NRC, *_ = logprobs.token_logps(
      logprobs.Head(table_VD, devices),
      hidden_NRCD,
      tokens_NRC,
      temperature=1.0,
      max_logits=1024 * 4 * 30,
    )
    return logp_NRC.sum()

  grad = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
  want = grad(table_VD, hidden_NRCD, 1)
  with jax.set_mesh(mesh):
    devices = sharding.parts(mesh, RULES.axes_in_use("vocab"))
    placed = (
      jax.device_put(table_VD, NamedSharding(mesh, RULES.spec(("vocab",)))),
      jax.device_put(hidden_NRCD, NamedSharding(mesh, RULES.spec(("batch",)))),
    )
    got = grad(*placed, devices)
    program = grad.lower(*placed, devices).compile().as_text()
  assert devices == 4
  # Sums of 30 log-probs of about -9, block by block.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
    got,
    want,
  )
  assert "all-gather" not in program
  assert got[1][0].sharding.is_equivalent_to(placed[0].sharding, 2)


def sample(mesh, rules, rollout_rules):
  """Samples with parameters that live as `rules` say."""
  with jax.set_mesh(mesh):
    params = put_params(VALUES, MODEL, mesh, rules)
    policy = LanguageModel(TINY, rollout_rules)
    sampler = Sampler(
      policy,
      SAMPLING,
      stop_ids=(0, 20),
      pad_id=0,
      mesh=mesh,
      rules=rollout_rules,
    )
    trunks = sharding.put_batch(TRUNKS, mesh, rollout_rules)
    arguments = sampler.prefill(params, trunks), trunks, jax.random.key(3)
    program = sampler.decode.lower(*arguments).compile()
    branches, _ = program(*arguments)
    return jax.device_get(branches), program.as_text()


def test_a_rollout_with_rules_of_its_own_draws_the_same_samples():
  # Stored over fsdp and tensor, as in the update; sampled with whole weights
  # on every part of the batch.
  stored = ShardingRules(batch=("data", "fsdp", "tensor"))
  whole = ShardingRules(embed=None)
  mesh = small_mesh(1, 2, 2)
  want, gathering = sample(mesh, stored, ShardingRules())
  got, _ = sample(mesh, stored, whole)
  np.testing.assert_array_equal(got.tokens_NRC, want.tokens_NRC)
  np.testing.assert_array_equal(got.length_NR, want.length_NR)
  # Float32 sums in another order.
  np.testing.assert_allclose(
    got.sampler_logp_NRC, want.sampler_logp_NRC, rtol=1e-3, atol=1e-4
  )
  assert got.tokens_NRC.shape == (4, 4, 6)
  assert "all-gather" in gathering


def test_weights_are_laid_out_in_the_compute_dtype():
  mesh = small_mesh(1, 2, 2)
  config = dataclasses.replace(TINY, dtype="bfloat16")
  policy = LanguageModel(config, ShardingRules(embed=None))
  with jax.set_mesh(mesh):
    params = put_params(zeros(policy), policy, mesh, RULES)
    laid = jax.jit(policy.for_decoding)(params)
  gate = laid["layers_1"]["mlp"]["gate"]
  assert gate.dtype == jnp.bfloat16
  assert gate.sharding.spec == PartitionSpec(None, "tensor")
  assert params["blocks"]["mlp"]["gate"].sharding.spec == PartitionSpec(
    None, "fsdp", "tensor"
  )


def test_a_mesh_axis_splits_the_first_axis_that_it_is_for():
  every = ShardingRules(batch=("data", "fsdp", "tensor"))
  axes = ("batch", None, "kv_heads")
  assert RULES.spec(axes) == PartitionSpec(("data", "fsdp"), None, "tensor")
  assert every.spec(axes) == PartitionSpec(
    ("data", "fsdp", "tensor"), None, None
  )


def test_weights_are_gathered_over_the_batch_and_along_embed():
  every = ShardingRules(batch=("data", "fsdp", "tensor"))
  axes = ("embed", "mlp")
  assert RULES.spec_in_use(axes) == PartitionSpec(None, "tensor")
  assert every.spec_in_use(axes) == PartitionSpec(None, None)
  by_data = ShardingRules(batch="data", mlp=("fsdp", "tensor"))
  assert by_data.spec_in_use(axes) == PartitionSpec(None, "tensor")


def test_rows_are_split_along_their_tokens_or_their_branches():
  rules = ShardingRules(tokens="tensor")
  mesh = small_mesh(2, 2, 2)

  def spec(x_NRTD):
    pin = jax.jit(lambda x: sharding.constrain_tokens(x, rules))
    return pin(x_NRTD).sharding.spec

  with jax.set_mesh(mesh):
    assert sharding.row_split(rules) == (("tensor",), 2)
    assert sharding.row_split(RULES) == ((), 1)
    trunk, lanes = jnp.zeros((4, 1, 8, 3)), jnp.zeros((4, 4, 8, 3))
    rows = ("data", "fsdp")
    assert spec(trunk) == PartitionSpec(rows, None, "tensor")
    assert spec(lanes) == PartitionSpec(rows, "tensor")
  # All heads of a token are on its device.
  assert rules.spec_in_use(("embed", "kv_heads")) == PartitionSpec(None, None)
  # A mesh axis that splits rows splits no row.
  both = ShardingRules(batch=("data", "tensor"), tokens=("fsdp", "tensor"))
  assert both.token_axes() == ("data", "tensor", "fsdp")
  with jax.set_mesh(mesh):
    assert sharding.row_split(both) == (("fsdp",), 2)


def test_gradients_stay_where_their_weights_are():
  mesh = small_mesh(2, 2, 2)
  rules = ShardingRules(batch=("data", "fsdp", "tensor"))
  table = np.arange(48, dtype=np.float32).reshape(8, 6) / 50
  tokens = np.array([1, 2, 3, 1, 7, 0, 5, 1]).reshape(8, 1, 1)

  def gradient(table, tokens):
    def loss(table):
      rows = sharding.lookup(table, tokens, rules)
      scores = rows @ sharding.gather_weight(table, ("vocab", "embed"), rules).T
      return jnp.sum(jnp.sin(scores))

    return jax.grad(loss)(table)

  want = jax.jit(gradient)(table, tokens)
  with jax.set_mesh(mesh):
    placed = jax.device_put(
      table, NamedSharding(mesh, rules.spec(("vocab", "embed")))
    )
    got = jax.jit(gradient)(placed, sharding.put_batch(tokens, mesh, rules))
  # Sums of some tens of float32 terms up to 1, in another order.
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.abs(want).max() > 1
  assert got.sharding.spec == PartitionSpec("tensor", "fsdp")


def test_heads_that_the_mesh_does_not_divide_are_refused():
  model = LanguageModel(dataclasses.replace(TINY, n_heads=3, n_kv_heads=3))
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(
    ValueError,
    match=r"^3 kv_heads do not divide over 2 devices \(c\.mesh\.tensor=2\); "
    r"change the mesh, or set c\.rules\.kv_heads .* to None$",
  ):
    sharding.tree_shardings(abstract, small_mesh(1, 1, 2), model.rules)
