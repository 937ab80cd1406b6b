# SPDX-License-Identifier: Apache-2.0
"""The decoding loop with its kernel, compiled for TPUs."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from launch.tpu import ahead_of_time
from srl_jax import sharding
from srl_jax.models import LanguageModel, zoo
from srl_jax.rollout import decode
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.sharding import MeshConfig
from srl_jax.testing.compilation import full_compilation
from srl_jax.types import Trunks

TRUNKS, POINTS, SAMPLES = 4, 2, 8


def compiled_rollout(kernel, topology):
  """Of four trunks with 16 branches each, two layers of a 7B model."""
  model = LanguageModel(
    dataclasses.replace(
      zoo.MODELS["qwen2_5_7b"],
      n_layers=2,
      dtype="bfloat16",
      param_dtype="bfloat16",
      decode_kernel=kernel,
    )
  )
  chips = ahead_of_time.devices(topology)
  mesh = sharding.make_mesh(MeshConfig(), chips[:1])
  where = NamedSharding(mesh, PartitionSpec())

  def shape(*sizes, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

  trunks = Trunks(
    tokens_NS=shape(TRUNKS, 2048),
    length_N=shape(TRUNKS),
    branch_at_NK=shape(TRUNKS, POINTS),
    stem_NKC=shape(TRUNKS, POINTS, 16),
    stem_length_NK=shape(TRUNKS, POINTS),
    point_id_NK=shape(TRUNKS, POINTS, dtype=jnp.uint32),
    is_real_NK=shape(TRUNKS, POINTS, dtype=bool),
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = nn.unbox(jax.eval_shape(model.init, key))

  def rollout(params, trunks, key):
    return decode.rollout(
      model,
      params,
      trunks,
      key,
      config=SamplingConfig(samples=SAMPLES, max_new_tokens=1024),
      stop_ids=(0,),
      pad_id=0,
    )

  place = lambda x: shape(*x.shape, dtype=x.dtype)  # noqa: E731
  with jax.set_mesh(mesh), full_compilation():
    lowered = jax.jit(rollout).lower(
      jax.tree.map(place, params), trunks, place(key)
    )
    return lowered.compile()


@pytest.mark.slow
@pytest.mark.parametrize(
  "topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
)
def test_an_iteration_reads_its_caches_where_they_are(topology):
  pytest.importorskip("libtpu")
  text = compiled_rollout("auto", topology).as_text()
  calls = [x for x in text.splitlines() if "decode_attention" in x]
  # Two layers in one loop: the cache has its full width at once.
  assert sum(" custom-call(" in x for x in calls) == 2
  # Arrays of all branches' keys or values, of 4 heads.
  cache = rf"bf16\[{TRUNKS * POINTS * SAMPLES},4,(128,1039|1039,128)\]\S* "
  made = re.findall(cache + r"([a-z\-]+)\(", text)
  assert "dynamic-update-slice" in {x for _, x in made}
  assert not {x for _, x in made} & {"copy", "transpose"}


@pytest.mark.slow
def test_without_the_kernel_there_is_none():
  pytest.importorskip("libtpu")
  text = compiled_rollout("plain", "v5e:2x2").as_text()
  assert "decode_attention" not in text
