# SPDX-License-Identifier: Apache-2.0
"""Files of weights that are old, broken, quantised or lead elsewhere."""

import json
import shutil
import struct
import warnings

import jax
import ml_dtypes  # noqa: F401 (bfloat16 for numpy)
import numpy as np
import pytest
import safetensors.numpy

from srl_jax.models import LanguageModel, hf_files, hf_index, hf_layout, weights
from srl_jax.testing.tiny import small_mesh
from tests.support import families

NORM = "model.norm.weight"


def check(folder):
  """Opens a folder and compares it with the model of its own config."""
  checkpoint = hf_files.HfCheckpoint(folder)
  config = checkpoint.config
  checkpoint.check(hf_layout.places(config), config.tie_embeddings)
  return checkpoint


def everything(checkpoint, name):
  return checkpoint.part(name, (slice(None),))


def edit(path, change):
  every = safetensors.numpy.load_file(path)
  change(every)
  safetensors.numpy.save_file(every, path)


@pytest.fixture
def sharded(tmp_path):
  return families.write(tmp_path / "sharded", "qwen2", 3)


@pytest.fixture
def single(tmp_path):
  return families.write(tmp_path / "single", "qwen2")


@pytest.mark.parametrize("shards", ["there", "gone"])
def test_a_single_file_counts_before_an_index(single, sharded, shards):
  edit(single / hf_index.SINGLE, lambda every: every[NORM].fill(7))
  shutil.copy(single / hf_index.SINGLE, sharded)
  if shards == "gone":
    for path in sharded.glob("model-*"):
      path.unlink()
  with pytest.warns(UserWarning, match=r"model\.safetensors is read, as trans"):
    found = check(sharded)
  assert (everything(found, NORM) == 7).all()


def test_an_index_of_the_single_file_is_no_cause_for_a_warning(single):
  index = {"weight_map": {NORM: hf_index.SINGLE}}
  (single / hf_index.INDEX).write_text(json.dumps(index))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    check(single)


def test_a_tensor_is_read_from_the_file_that_the_index_names(sharded):
  index = json.loads((sharded / hf_index.INDEX).read_text())
  other = max(set(index["weight_map"].values()) - {index["weight_map"][NORM]})
  edit(sharded / other, lambda every: every.update({NORM: np.full(24, 9.0)}))
  assert not (everything(check(sharded), NORM) == 9).any()


OUTSIDE = (
  *("../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors"),
  *("..\\x.safetensors", "c:x.safetensors", "x\0.safetensors", "config.json"),
  *("a" * 300 + ".safetensors", "//h/x.safetensors", "..", ""),
)


@pytest.mark.parametrize(
  "weight_map",
  [
    *({NORM: name} for name in OUTSIDE),
    *(None, [], {}, 5, "x", {NORM: None}, {NORM: 3}, {NORM: ["a"]}, {"a": {}}),
  ],
)
def test_a_broken_index_is_one_error_that_names_it(sharded, weight_map):
  path = sharded / hf_index.INDEX
  path.write_text(json.dumps({"weight_map": weight_map}))
  with pytest.raises(ValueError, match=r"index\.json (has|says)") as caught:
    check(sharded)
  assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10**6])
def test_an_index_that_is_no_object_is_named(sharded, text):
  (sharded / hf_index.INDEX).write_text(text)
  with pytest.raises(ValueError, match=r"index\.json: (not JSON|holds no)"):
    check(sharded)


def test_files_may_be_links_as_in_the_cache_of_the_hub(sharded, tmp_path):
  cache = tmp_path / "cache" / "snapshots" / "abc"
  blobs = tmp_path / "cache" / "blobs"
  cache.mkdir(parents=True)
  blobs.mkdir()
  for number, path in enumerate(sorted(sharded.iterdir())):
    shutil.copy(path, blobs / str(number))
    (cache / path.name).symlink_to(f"../../blobs/{number}")
  check(cache)


def head(tensors, size=None, data=b""):
  text = json.dumps(tensors).encode()
  return struct.pack("<Q", len(text) if size is None else size) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\xff" * 8,
    head({}, 1 << 60),
    head({}, 100),
    head([]),
    head({"a": 1}),
    head({"a": F32}, data=bytes(4)),
    head({"a": F32 | {"shape": [-2]}}, data=bytes(8)),
    head({"a": F32 | {"shape": [1 << 40, 1 << 40]}}, data=bytes(8)),
    head({"a": F32 | {"data_offsets": [8, 0]}}, data=bytes(8)),
    head({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, data=bytes(12)),
  ],
)
def test_a_broken_file_of_weights_is_named(single, data):
  (single / hf_index.SINGLE).write_bytes(data)
  with pytest.raises(ValueError, match="is truncated or no safetensors file"):
    check(single)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda e: e.update({NORM: np.ones(24, np.int8)}), r"int8 \(model\.norm"),
    (
      lambda e: e.update({"model.layers.0.mlp.up_proj.qweight": np.ones(1)}),
      "quantised .GPTQ or AWQ: model.layers.0.mlp.up_proj.qweight.; use",
    ),
    (
      lambda e: e.update({"model.layers.0.mlp.up_proj.weight.absmax": NORM_}),
      "quantised .bitsandbytes: ",
    ),
    (
      lambda e: e.update(
        {"model.layers.0.mlp.up_proj.weight_scale_inv": NORM_}
      ),
      "quantised .scales beside 8-bit weights: ",
    ),
  ],
)
def test_quantised_weights_are_named(single, change, message):
  edit(single / hf_index.SINGLE, change)
  with pytest.raises(ValueError, match=message) as caught:
    check(single)
  assert "dequantise it" in str(caught.value)


NORM_ = np.ones(1, np.float32)


def test_weights_of_eight_bits_are_named_by_their_dtype(single):
  path = single / hf_index.SINGLE
  data = path.read_bytes()
  # Half of a tensor of 16 bits is one of 8 bits with twice as many numbers.
  every = safetensors.numpy.load_file(path)
  text = {"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]}
  small = head({NORM: text}, data=bytes(24))
  assert len(small) < len(data)
  del every[NORM]
  safetensors.numpy.save_file(every, single / "model-2.safetensors")
  (single / "model-1.safetensors").write_bytes(small)
  path.unlink()
  of_tensor = dict.fromkeys(every, "model-2.safetensors")
  of_tensor[NORM] = "model-1.safetensors"
  (single / hf_index.INDEX).write_text(json.dumps({"weight_map": of_tensor}))
  with pytest.raises(ValueError, match=r"float8_e4m3 \(model\.norm\.weight"):
    check(single)


@pytest.mark.parametrize("is_equal", [True, False])
def test_another_head_beside_tied_embeddings_is_warned_of(tmp_path, is_equal):
  folder = families.write(tmp_path / "tied", "qwen2_tied")

  def add(every):
    table = every["model.embed_tokens.weight"]
    every["lm_head.weight"] = table if is_equal else -3 * table

  edit(folder / hf_index.SINGLE, add)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    check(folder)
  said = [str(x.message) for x in caught]
  assert [("set tie_word_embeddings to false" in x) for x in said] == (
    [] if is_equal else [True]
  )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_that_are_not_finite_are_named_by_their_tensor(
  single, value, dtype
):
  def change(every):
    for name, array in every.items():
      every[name] = array.astype(dtype)
    every["model.layers.1.mlp.up_proj.weight"][3, 2] = value

  edit(single / hf_index.SINGLE, change)
  mesh = small_mesh()
  model = LanguageModel(check(single).config)
  with (
    pytest.raises(
      ValueError,
      match=r"NaN numbers in: model\.layers\.1\.mlp\.up_proj\.weight\n",
    ) as caught,
    jax.set_mesh(mesh),
  ):
    weights.load_params(single, model, mesh, jax.random.key(0))
  assert str(single) in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_finite_numbers_are_told_from_others(dtype):
  largest = np.array([-1, 0, 1], dtype)
  assert hf_index.is_finite(largest)
  for value in (np.nan, np.inf, -np.inf):
    assert not hf_index.is_finite(np.array([1, value], dtype))
