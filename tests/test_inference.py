# SPDX-License-Identifier: Apache-2.0
"""Models that are asked: what tells them apart, and where they lie."""

import collections
import gc

import jax
from flax import linen as nn

from srl_jax import inference, initial_weights, loading, sharding
from srl_jax.config import Config
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.testing.tiny import TINY, random_params
from srl_jax.tokenizers import TokenizerConfig

MODEL = LanguageModel(TINY)


def test_a_checksum_sees_every_parameter():
  params = random_params(MODEL)
  leaves, tree = jax.tree.flatten(params)
  found = {inference.checksum_of(params)}
  for i, leaf in enumerate(leaves):
    # One number in the middle: the others of the file stay as they were.
    flat = leaf.ravel()
    other = flat.at[flat.size // 2].add(0.01).reshape(leaf.shape)
    changed = jax.tree.unflatten(tree, [*leaves[:i], other, *leaves[i + 1 :]])
    found.add(inference.checksum_of(changed))
  assert len(found) == len(leaves) + 1


def test_a_checksum_is_the_same_on_every_mesh():
  params = random_params(MODEL)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
  boxed = jax.eval_shape(MODEL.init, jax.random.key(0))
  split = jax.device_put(
    nn.unbox(params), sharding.tree_shardings(boxed, mesh, MODEL.rules)
  )
  assert inference.checksum_of(split) == inference.checksum_of(params)


def bytes_by_device(tree):
  """Bytes that each device holds of the arrays."""
  found = collections.Counter()
  for array in jax.tree.leaves(tree):
    for shard in array.addressable_shards:
      found[shard.device] += shard.data.nbytes
  return found


def test_all_devices_hold_a_model_between_them_and_once():
  # As of Qwen2.5-7B, 4 divides the heads, and 8 devices their number.
  shape = ModelConfig(
    vocab_size=512, d_model=64, n_heads=8, n_kv_heads=4, d_mlp=512
  )
  config = loading.on_this_machine(
    Config(model=shape, tokenizer=TokenizerConfig(kind="byte"))
  )
  model = inference.load(config)
  whole = model.param_bytes()
  at_rest = bytes_by_device(initial_weights.initial_params(model.run))
  asked = bytes_by_device(model.params)
  assert len(at_rest) == len(asked) == 8
  # Norms are whole everywhere.
  assert max(at_rest.values()) < 1.02 * whole / 8
  assert max(asked.values()) < 1.02 * whole / 4
  gc.collect()
  before = bytes_by_device(jax.live_arrays())
  stream = model.stream(rows=2, slots=1, key=jax.random.key(0))
  more = bytes_by_device(jax.live_arrays()) - before
  # Keys and values, which are less than another copy of the parameters.
  assert 0 < max(more.values()) < max(asked.values())
  del stream
