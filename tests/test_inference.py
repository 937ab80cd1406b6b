# SPDX-License-Identifier: Apache-2.0
"""Models that are asked: what tells them apart, and where they lie."""

import jax
from flax import linen as nn

from srl_jax import inference, sharding
from srl_jax.models import LanguageModel
from srl_jax.testing.tiny import TINY, random_params

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
