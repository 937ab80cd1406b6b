# SPDX-License-Identifier: Apache-2.0
"""The pass over the trunks with each kernel: on a mesh, for TPUs, at 32k."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.models import MODELS
from launch.tpu import ahead_of_time
from srl_jax import sharding
from srl_jax.models import LanguageModel, zoo
from srl_jax.sharding import MeshConfig, ShardingRules
from srl_jax.testing.compilation import full_compilation
from srl_jax.testing.tiny import TINY, random_params, small_mesh

TOKENS_NS = np.random.default_rng(0).integers(1, 32, (4, 12))
LENGTHS = np.array([12, 7, 9, 2])[:, None]
POSITION_NS = np.where(np.arange(12) < LENGTHS, np.arange(12), -1)


def model_with(kernel, config=TINY):
  return LanguageModel(dataclasses.replace(config, attention_kernel=kernel))


def loss(model, params, tokens_NS, position_NS):
  """Looks at the keys and values of all tokens, in all layers."""
  trunk = model.trunk(params, tokens_NS, position_NS)
  is_token_N1S1 = (trunk.position >= 0)[:, None, :, None]
  both = jnp.stack([jnp.swapaxes(trunk.k, -1, -2), trunk.v]).astype(jnp.float32)
  return (jnp.where(is_token_N1S1, both, 0) ** 2).mean()


def gradient(model):
  return jax.jit(jax.value_and_grad(lambda *arguments: loss(model, *arguments)))


@functools.cache
def params_and_gradient():
  """Parameters, and the plain gradient in them, on one device."""
  params = jax.tree.map(np.asarray, random_params(LanguageModel(TINY)))
  want = gradient(model_with("plain"))(params, TOKENS_NS, POSITION_NS)
  return params, want


# A row of the four, and a key/value head of the two, per device; or a row and
# both heads, where the axis of the heads splits the rows.
@pytest.mark.parametrize(
  ("rules", "sizes", "part"),
  [
    (ShardingRules(), (2, 2, 2), "1x1x12x1x2x6"),
    (ShardingRules(batch=("fsdp", "tensor")), (1, 2, 2), "1x1x12x2x2x6"),
  ],
)
def test_the_kernel_works_on_each_devices_part_of_a_mesh(rules, sizes, part):
  params, want = params_and_gradient()
  mesh = small_mesh(*sizes)
  model = dataclasses.replace(model_with("splash"), rules=rules)
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  with jax.set_mesh(mesh):
    placed = jax.device_put(
      params, sharding.tree_shardings(abstract, mesh, rules)
    )
    batch = sharding.put_batch((TOKENS_NS, POSITION_NS), mesh, rules)
    lowered = gradient(model).lower(placed, *batch)
    got = lowered.compile()(placed, *batch)
  assert f"tensor<{part}xf32>" in lowered.as_text()
  # Float32 through two layers, forward and back, in another order.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    got,
    want,
  )


def test_a_kernel_that_cannot_run_is_refused_when_the_model_is_made():
  with pytest.raises(ValueError, match=r"c.model.attention_kernel to 'auto'"):
    jax.eval_shape(model_with("cudnn").init, jax.random.key(0))


def compiled_gradient(model, length, where=None):
  """Of the loss of one trunk, compiled with nothing run."""

  def shape(x, dtype=None):
    return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=where)

  key = jax.eval_shape(lambda: jax.random.key(0))
  params = nn.unbox(jax.eval_shape(model.init, key))
  rows = shape(np.zeros((1, length)), jnp.int32)
  lowered = gradient(model).lower(jax.tree.map(shape, params), rows, rows)
  with full_compilation():
    return lowered, lowered.compile()


SMALL = dataclasses.replace(MODELS["small"], max_positions=32_768)


def temporary_gib(model, length):
  analysis = compiled_gradient(model, length)[1].memory_analysis()
  return analysis.temp_size_in_bytes / 2**30


@pytest.mark.slow
def test_a_trunk_of_32k_tokens_fits_without_a_kernel():
  model = model_with("plain", SMALL)
  eighth, half, whole = (temporary_gib(model, 2**x) for x in (13, 14, 15))
  # The logits of one layer alone would be 32 GiB; the keys, values and inputs
  # of the layers are 1.
  assert whole < 5
  # A square would grow fourfold.
  assert half < 2.2 * eighth
  assert whole < 2.2 * half


QWEN_HALF = dataclasses.replace(
  zoo.MODELS["qwen2_5_0_5b"], param_dtype="bfloat16"
)


@pytest.mark.slow
def test_a_trunk_of_32k_tokens_fits_a_v5e():
  pytest.importorskip("libtpu")
  chips = ahead_of_time.devices("v5e:2x2")
  mesh = sharding.make_mesh(MeshConfig(), chips[:1])
  where = NamedSharding(mesh, PartitionSpec())
  with jax.set_mesh(mesh):
    # An error of the compiler says what does not fit into 16 GiB.
    lowered, compiled = compiled_gradient(
      model_with("auto", QWEN_HALF), 32_768, where
    )
  assert "tpu_custom_call" in lowered.as_text()
  assert compiled.memory_analysis().temp_size_in_bytes < 8 * 2**30
