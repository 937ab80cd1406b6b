# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: read share by share, checked as a whole, written back."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from srl_jax import sharding
from srl_jax.models import LanguageModel, LoraConfig, hf_files, weights
from srl_jax.models.hf_layout import places
from srl_jax.sharding import MeshConfig, ShardingRules
from srl_jax.testing.tiny import random_params, small_mesh
from tests.support import families

KEY = jax.random.key(0)
# Every axis that rules know is split, head widths (10) too.
SPLIT = ShardingRules(embed="fsdp", kv_heads="tensor", head_width="data")


def model_of(folder, rules=ShardingRules(), **changes):
  config = hf_files.HfCheckpoint(folder).config
  return LanguageModel(dataclasses.replace(config, **changes), rules)


def load(folder, mesh=None, **options):
  mesh = mesh or small_mesh()
  with jax.set_mesh(mesh):
    return weights.load_params(folder, model_of(folder, **options), mesh, KEY)


def flat(params):
  return {
    path: np.asarray(x)
    for path, x in traverse_util.flatten_dict(params, sep="/").items()
  }


def assert_equal(got, want):
  got, want = flat(got), flat(want)
  assert got.keys() == want.keys()
  for path, x in got.items():
    np.testing.assert_array_equal(x, want[path], err_msg=path)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
  return families.write(tmp_path_factory.mktemp("x") / "gemma2", "gemma2", 3)


def test_heads_are_where_a_checkpoint_has_them(tmp_path):
  folder = families.write(tmp_path / "qwen2", "qwen2")
  found = flat(load(folder))
  q = families.tensor("model.layers.1.self_attn.q_proj.weight", (40, 24))
  # Query head 3 of the checkpoint is the second one of key/value head 1.
  np.testing.assert_array_equal(
    found["blocks/attention/q"][1][:, 1, 1], q[30:40].T
  )
  o = families.tensor("model.layers.2.self_attn.o_proj.weight", (24, 40))
  np.testing.assert_array_equal(
    found["blocks/attention/o"][2][1, 1], o[:, 30:40].T
  )
  bias = families.tensor("model.layers.0.self_attn.v_proj.bias", (20,))
  np.testing.assert_array_equal(
    found["blocks/attention/v_bias"][0][1], bias[10:]
  )


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_every_device_reads_its_share(tmp_path, family):
  folder = families.write(tmp_path / "x", family, files=2)
  whole = load(folder)
  mesh = small_mesh(2, 2, 2)
  split = load(folder, mesh, rules=SPLIT)
  q = split["blocks"]["attention"]["q"]
  assert q.addressable_shards[0].data.shape == (3, 12, 1, 2, 5)
  assert_equal(split, whole)
  found = weights.checksums(split)
  assert found == weights.checksums(whole)
  values = np.asarray(whole["embedding"])
  assert found["embedding"] == values.view(np.uint32).sum(dtype=np.uint32)


@pytest.fixture
def asked(monkeypatch):
  """The numbers of elements that were read, by the tensor's name."""
  asked = {}
  part = hf_files.HfCheckpoint.part

  def counting(self, name, index):
    found = part(self, name, index)
    asked.setdefault(name, []).append(found.size)
    return found

  monkeypatch.setattr(hf_files.HfCheckpoint, "part", counting)
  return asked


def test_devices_read_a_checkpoint_once_between_them(gemma, asked):
  # Also what the devices of the data axis hold twice.
  load(gemma, small_mesh(2, 2, 2))
  sizes = {
    name: math.prod(place.stored_shape)
    for place in places(model_of(gemma).config).values()
    for name in place.names
  }
  assert {name: sum(found) for name, found in asked.items()} == sizes
  gate = "model.layers.0.mlp.gate_proj.weight"
  assert asked[gate] == [sizes[gate] // 8] * 8
  # Each device's share of a table is read by all readers.
  table = "model.embed_tokens.weight"
  assert asked[table] == [sizes[table] // 64] * 64
  # 20 rows are not for 8 devices, but for the 2 x 2 that hold other parts.
  v = "model.layers.0.self_attn.v_proj.weight"
  assert asked[v] == [sizes[v] // 4] * 4
  # Vectors are small, so each process reads them whole.
  norm = "model.layers.0.input_layernorm.weight"
  assert asked[norm] == [sizes[norm]]


def test_what_another_process_read_and_is_not_finite_is_refused(
  gemma, monkeypatch
):
  monkeypatch.setattr(weights, "gather_objects", lambda x: [x, {"some.weight"}])
  with pytest.raises(ValueError, match=r"NaN numbers in: some\.weight"):
    load(gemma)


def test_weights_become_the_dtype_of_the_parameters(gemma):
  found = load(gemma, param_dtype="bfloat16")
  assert {str(x.dtype) for x in jax.tree.leaves(found)} == {"bfloat16"}
  whole = load(gemma)["embedding"].astype("bfloat16")
  np.testing.assert_array_equal(found["embedding"], whole)


def test_layers_may_be_stored_in_different_halves(gemma, tmp_path):
  folder = tmp_path / "x"
  shutil.copytree(gemma, folder)
  for path in folder.glob("*.safetensors"):
    every = safetensors.numpy.load_file(path)
    for name, x in every.items():
      half = jnp.bfloat16 if ".0." in name else np.float16
      every[name] = x.astype(half)
    safetensors.numpy.save_file(every, path)
  want = load(gemma)["blocks"]["mlp"]["gate"]
  found = load(folder)["blocks"]["mlp"]["gate"]
  np.testing.assert_array_equal(found[0], want[0].astype(jnp.bfloat16))
  np.testing.assert_array_equal(found[1], want[1].astype(np.float16))


@pytest.fixture
def broken(gemma, tmp_path):
  """A copy of a checkpoint, and what is said of it."""
  folder = tmp_path / "broken"
  shutil.copytree(gemma, folder)

  def said():
    with pytest.raises(ValueError, match=r".") as raised:
      load(folder)
    return str(raised.value)

  return folder, said


def edit(path, change):
  every = safetensors.numpy.load_file(path)
  change(every)
  safetensors.numpy.save_file(every, path)


def test_all_that_is_wrong_is_said_at_once(broken):
  folder, said = broken
  names = list(hf_files.HfCheckpoint(folder)._found)
  norm = "model.norm.weight"

  def change(every):
    every.pop("model.layers.1.mlp.up_proj.weight", None)
    every["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(5)
    every["model.layers.0.extra"] = np.ones(1)
    if norm in every:
      every[norm] = np.ones(25, np.float32)

  for path in sorted(folder.glob("*.safetensors")):
    edit(path, change)
  message = said()
  assert len(names) == 35
  assert message.startswith(f"{folder} cannot be loaded:\n")
  assert "missing: model.layers.1.mlp.up_proj.weight\n" in message
  assert "not part of this model: model.layers.0.extra\n" in message
  assert f"{norm} is [25] there and [24] here\n" in message
  # A constant that old checkpoints store is no surprise.
  assert "inv_freq" not in message


def test_a_truncated_file_and_a_missing_one_are_named(broken):
  folder, said = broken
  first, second, _ = sorted(folder.glob("*.safetensors"))
  first.write_bytes(first.read_bytes()[:-100])
  second.unlink()
  message = said()
  assert f"{first.name} is truncated or no safetensors file" in message
  assert f"{second.name} is missing" in message
  # Not each of their tensors besides.
  assert "missing: " not in message


def test_a_head_beside_tied_embeddings_is_accepted(broken):
  folder, _ = broken

  def add(every):
    every["lm_head.weight"] = np.zeros((64, 24), np.float32)

  edit(min(folder.glob("*.safetensors")), add)
  with pytest.warns(
    UserWarning, match=r"lm_head\.weight is stored and differs"
  ):
    assert "head" not in load(folder)


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_the_text_model_of_a_multimodal_checkpoint_is_taken(tmp_path, prefix):
  text = families.write(tmp_path / "text", "gemma3")
  both = tmp_path / "both"
  both.mkdir()
  config = {"model_type": "gemma3", "text_config": families.CONFIGS["gemma3"]}
  (both / "config.json").write_text(json.dumps(config))
  inner = prefix.removeprefix("model.") != prefix
  every = {"vision_tower.x": np.ones(3), "model.vision_tower.y": np.ones(3)}
  for name, x in families.tensors(families.CONFIGS["gemma3"]).items():
    every[prefix + name.removeprefix("model." * inner)] = x
  safetensors.numpy.save_file(every, both / "model.safetensors")
  assert_equal(load(both), load(text))


@pytest.mark.parametrize(
  ("remove", "add", "message"),
  [
    ("config.json", "", "it has no config.json (it has model-00001-of-00003."),
    ("*.safetensors*", "", "it has config.json); fetch the folder again"),
    ("*.safetensors*", "pytorch_model.bin", "(..., safe_serialization=True)"),
  ],
)
def test_folders_that_are_no_checkpoints_are_refused(
  broken, remove, add, message
):
  folder, said = broken
  for path in folder.glob(remove):
    path.unlink()
  if add:
    (folder / add).write_bytes(b"")
  assert message in said()


def test_a_model_of_another_shape_is_named_by_its_fields(gemma):
  mesh = small_mesh()
  model = model_of(gemma, d_mlp=48, sliding_window=5)
  with pytest.raises(ValueError, match="d_mlp is 40 there and 48 here; s"):
    weights.load_params(gemma, model, mesh, KEY)


@pytest.mark.parametrize("family", families.CONFIGS)
def test_what_is_written_is_what_was_read(tmp_path, family):
  folder = families.write(tmp_path / "x", family, files=2)
  mesh = small_mesh(1, 2, 2)
  model = model_of(folder)
  with jax.set_mesh(mesh):
    params = weights.load_params(folder, model, mesh, KEY)
    out = tmp_path / "out"
    beside = tmp_path / "tokenizer.json"
    beside.write_text("{}")
    weights.save_params(
      out,
      params,
      model,
      dtype="float32",
      files=[beside],
      max_file_bytes=20_000,
    )
  found = {}
  files = sorted(out.glob("*.safetensors"))
  assert len(files) > 3
  for path in files:
    found |= safetensors.numpy.load_file(path)
    assert path.stat().st_size < 30_000
  want = families.tensors(families.CONFIGS[family])
  assert found.keys() == want.keys()
  for name, x in found.items():
    np.testing.assert_array_equal(x, want[name], err_msg=name)
  assert (out / "tokenizer.json").is_file()
  assert hf_files.HfCheckpoint(out).config == model.config
  assert_equal(load(out), params)


def test_weights_are_rounded_when_they_are_written(tmp_path, gemma):
  mesh = small_mesh()
  model = model_of(gemma)
  params = load(gemma)
  with jax.set_mesh(mesh):
    out = tmp_path / "out"
    weights.save_params(out, params, model, dtype="bfloat16")
  assert json.loads((out / "config.json").read_text())["torch_dtype"] == (
    "bfloat16"
  )
  got = flat(load(out))["embedding"]
  want = flat(params)["embedding"].astype("bfloat16").astype(np.float32)
  np.testing.assert_array_equal(got, want)


def test_an_interrupted_export_leaves_what_was_there(
  tmp_path, gemma, monkeypatch
):
  params, model = load(gemma), model_of(gemma)
  mesh = small_mesh()
  out = tmp_path / "out"
  with jax.set_mesh(mesh):
    weights.save_params(out, params, model, dtype="float32")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    save = safetensors.numpy.save_file
    written = []

    def interrupted(tensors, path, metadata):
      if written:
        raise KeyboardInterrupt
      written.append(path)
      save(tensors, path, metadata)

    monkeypatch.setattr(safetensors.numpy, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
      weights.save_params(
        out, params, model, dtype="bfloat16", max_file_bytes=20_000
      )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # And what is left over is no obstacle to the next attempt.
    monkeypatch.setattr(safetensors.numpy, "save_file", save)
    weights.save_params(out, params, model, dtype="bfloat16")
  assert [x.name for x in tmp_path.iterdir()] == ["out"]


def test_a_folder_fits_any_mesh(tmp_path, gemma):
  trained = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  model = model_of(gemma, rules=SPLIT)
  with jax.set_mesh(trained):
    params = weights.load_params(gemma, model, trained, KEY)
    weights.save_params(tmp_path / "x", params, model, dtype="float32")
  assert_equal(load(tmp_path / "x"), load(gemma))


def test_adapters_are_new_and_merged_when_written(tmp_path, gemma):
  lora = LoraConfig(rank=2, targets=("q", "down"))
  model, mesh = model_of(gemma, lora=lora), small_mesh(1, 2, 1)
  with jax.set_mesh(mesh):
    params = weights.load_params(gemma, model, mesh, KEY)
    attention = params["blocks"]["attention"]
    assert attention["q_lora_a"].shape == (3, 24, 2)
    assert np.any(attention["q_lora_a"]) and not np.any(attention["q_lora_b"])
    spec = attention["q_lora_a"].sharding.spec
    assert "fsdp" in spec, "adapters lie as their matrices do"
    changed = jax.tree.map(
      lambda x, r: jax.device_put(r, x.sharding), params, random_params(model)
    )
    weights.save_params(tmp_path / "x", changed, model, dtype="float32")
  got = flat(load(tmp_path / "x"))
  assert not any("lora" in path for path in got)
  w = flat(changed)
  a, b = (w[f"blocks/attention/q_lora_{x}"] for x in "ab")
  want = w["blocks/attention/q"] + 8 * np.einsum("LDP,LPHME->LDHME", a, b)
  np.testing.assert_allclose(got["blocks/attention/q"], want, rtol=1e-5)
