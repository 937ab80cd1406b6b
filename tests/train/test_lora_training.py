# SPDX-License-Identifier: Apache-2.0
"""Training adapters: the RL tests of full training, and what stays as it is."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from srl_jax import export, initial_weights, loading, sharding
from srl_jax.models import LanguageModel, LoraConfig, lora
from srl_jax.rollout import decode as rollout
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.sharding import abstract
from srl_jax.testing import experiment, tiny
from srl_jax.testing.lanes import branch_logps
from srl_jax.update import optim
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.updater import Updater, update_functions

LORA = LoraConfig(rank=3, alpha=6.0)
MODEL = LanguageModel(dataclasses.replace(tiny.TINY, lora=LORA))
PLAIN = LanguageModel(tiny.TINY)
PARAMS = tiny.random_params(MODEL)
RECORDS = [
  tiny.make_trunk(range(1, 10), (3, [10], 1), (9, [11, 12], 2)),
  tiny.make_trunk(range(5, 11), (4, [13, 10], 3)),
]
TRUNKS = tiny.make_trunks(RECORDS)
G = 4
# Adapters of this size make activations of some tens; float32 through two
# layers, summed in another order.
LOGP = {"rtol": 1e-3, "atol": 3e-3}


@functools.partial(jax.jit, static_argnames="model")
def logps(model, params, branches):
  return branch_logps(
    model, params, TRUNKS, branches, temperature=1.0, max_logits=0
  ).logp


@pytest.fixture(scope="module")
def batch():
  sample = jax.jit(
    lambda params: rollout.rollout(
      MODEL,
      params,
      TRUNKS,
      jax.random.key(1),
      config=SamplingConfig(samples=G, max_new_tokens=5),
      stop_ids=(0, 10, 20),
      pad_id=0,
    )[0]
  )
  rewards = np.random.default_rng(0).random((2, 2, G))
  return Experience(
    trunks=TRUNKS,
    branches=jax.device_get(sample(PARAMS)),
    reward_NKG=rewards.astype(np.float32),
  )


def test_the_sampler_with_merged_weights_stores_what_the_trainer_computes(
  batch,
):
  is_drawn = batch.branches.is_completion_NRC
  got = np.asarray(logps(MODEL, PARAMS, batch.branches))
  want = batch.branches.sampler_logp_NRC
  np.testing.assert_allclose(got[is_drawn], want[is_drawn], **LOGP)
  # Without the adapters it is another model.
  other = np.asarray(logps(PLAIN, lora.split(PARAMS)[1], batch.branches))
  assert np.abs(other - got)[is_drawn].max() > 1


@pytest.mark.parametrize("b_scale", [1e-4, 1e-3])
def test_the_sampler_in_bfloat16_follows_small_adapters(b_scale):
  # After a few update steps an adapter changes a weight by less than half of
  # its last bit.
  config = dataclasses.replace(MODEL.config, dtype="bfloat16")
  model = dataclasses.replace(MODEL, config=config)
  flat = traverse_util.flatten_dict(PARAMS)

  def first_keys(scale, for_decoding):
    params = {
      path: x * scale if path[-1].endswith(lora.B) else x.astype("bfloat16")
      for path, x in flat.items()
    }
    params = traverse_util.unflatten_dict(params)
    if for_decoding:
      params = jax.jit(model.for_decoding)(params)
    tokens_NS = np.asarray(TRUNKS.tokens_NS)
    position_NS = np.broadcast_to(
      np.arange(tokens_NS.shape[1]), tokens_NS.shape
    )
    return np.asarray(jax.jit(model.trunk)(params, tokens_NS, position_NS).k[0])

  moved = {
    form: first_keys(b_scale, form) - first_keys(0.0, form)
    for form in (False, True)
  }
  assert np.any(moved[False])
  np.testing.assert_array_equal(moved[True], moved[False])


def test_merged_is_the_same_model():
  merged = lora.merge(PARAMS, LORA, "float32")
  assert not any(
    lora.is_adapter(path[-1]) for path in traverse_util.flatten_dict(merged)
  )
  w = PARAMS["blocks"]["mlp"]
  want = w["up"] + 2 * np.einsum("LDP,LPF->LDF", w["up_lora_a"], w["up_lora_b"])
  np.testing.assert_allclose(merged["blocks"]["mlp"]["up"], want, rtol=1e-5)


def functions(model, loss=LossConfig()):
  return update_functions(
    grpo_loss(model, loss, 1.0),
    optax.sgd(0.1),
    optax.constant_schedule(0.1),
  )


def gradient(model, params, batch, loss=LossConfig(), reference=None):
  f = functions(model, loss)

  @jax.jit
  def run(params, batch, reference):
    trained, frozen = lora.split(params)
    lanes = one_branch_per_lane(batch)
    return f.accumulate(trained, frozen, f.zeros(trained), lanes, reference)

  (grads, _), metrics = run(params, batch, reference)
  return grads, metrics


def test_gradients_of_adapters_follow_from_those_of_their_matrices(batch):
  merged = lora.merge(PARAMS, LORA, "float32")
  # The same log-probs: those of the sampler are of the merged model anyway.
  full, _ = gradient(PLAIN, merged, batch)
  got, metrics = gradient(MODEL, PARAMS, batch)
  assert all(lora.is_adapter(p[-1]) for p in traverse_util.flatten_dict(got))
  # Half of all parameters at this size; the paper's Equation 3 by hand.
  for module, name, inputs in (("attention", "o", 3), ("mlp", "gate", 1)):
    shape = full["blocks"][module][name].shape
    rows = int(np.prod(shape[1 : 1 + inputs]))
    dw = np.reshape(full["blocks"][module][name], (shape[0], rows, -1))
    w = PARAMS["blocks"][module]
    a = np.reshape(w[name + lora.A], (shape[0], rows, 3))
    b = np.reshape(w[name + lora.B], (shape[0], 3, -1))
    g = got["blocks"][module]
    for part, want in (
      (lora.A, 2 * np.einsum("LIO,LPO->LIP", dw, b)),
      (lora.B, 2 * np.einsum("LIP,LIO->LPO", a, dw)),
    ):
      scale = np.abs(want).max()
      np.testing.assert_allclose(
        np.reshape(g[name + part], want.shape), want, atol=2e-3 * scale
      )
      assert scale > 1e-3
  np.testing.assert_allclose(metrics.ratio_max, 1.0, atol=5e-3)


def test_equal_rewards_give_adapters_exactly_no_gradient(batch):
  equal = batch._replace(reward_NKG=np.full((2, 2, G), 0.1, np.float32))
  for leaf in jax.tree.leaves(gradient(MODEL, PARAMS, equal)[0]):
    np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_the_reference_of_the_kl_term_is_made_of_old_adapters(batch):
  loss = LossConfig(kl_coefficient=0.1)
  trained, _ = lora.split(PARAMS)
  _, metrics = gradient(MODEL, PARAMS, batch, loss, reference=trained)
  np.testing.assert_allclose(metrics.kl_reference.numerator, 0, atol=1e-4)
  old = jax.tree.map(lambda x: x * 0.9, trained)
  _, metrics = gradient(MODEL, PARAMS, batch, loss, reference=old)
  logp, reference = (
    np.asarray(logps(MODEL, p, batch.branches))
    for p in (PARAMS, lora.join(old, lora.split(PARAMS)[1]))
  )
  is_counted = batch.branches.is_completion_NRC
  ratio = (reference - logp)[is_counted]
  want = (np.exp(ratio) - ratio - 1).sum()
  np.testing.assert_allclose(metrics.kl_reference.numerator, want, rtol=1e-2)


@pytest.mark.parametrize(
  "sizes", [pytest.param((1, 1, 1), marks=pytest.mark.slow), (2, 2, 2)]
)
def test_a_step_moves_adapters_and_nothing_else(batch, sizes):
  mesh, rules = tiny.small_mesh(*sizes), sharding.ShardingRules()
  rows = int(sizes[0] * sizes[1])
  abstract = jax.eval_shape(MODEL.init, jax.random.key(0))
  shardings = sharding.tree_shardings(abstract, mesh, rules)
  # A copy, which the update consumes.
  params = jax.device_put(jax.tree.map(np.array, PARAMS), shardings)
  with jax.set_mesh(mesh):
    updater = Updater(
      grpo_loss(MODEL, LossConfig(), 1.0),
      optax.adam(0.01),
      optax.constant_schedule(0.01),
      params,
      mesh,
    )
    state = updater.init(params)
    # As many rows as devices want.
    wide = jax.tree.map(lambda x: np.concatenate([x] * -(-rows // 2)), batch)
    wide = sharding.put_batch(one_branch_per_lane(wide), mesh, rules)
    state, _, metrics = updater.update(state, [wide], 0)
  assert metrics.grad_norm > 0
  trained, frozen = lora.split(state.params)
  before, frozen_before = lora.split(PARAMS)
  jax.tree.map(np.testing.assert_array_equal, frozen, frozen_before)
  for a, b in zip(
    jax.tree.leaves(trained), jax.tree.leaves(before), strict=True
  ):
    assert np.any(np.asarray(a) != np.asarray(b))
  count = sum(x.size for x in jax.tree.leaves(trained))
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sum(x.size for x in moments) == 2 * count
  assert {str(x.dtype) for x in moments} == {"float32"}
  # What is frozen lies where it lay, and is not copied.
  jax.tree.map(
    lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or 1 / 0,
    state.params,
    shardings,
  )


def cut():
  raise KeyboardInterrupt


@pytest.fixture(scope="module")
def changes(runs):
  """To the config: adapters on a model that knows the format."""
  start = runs.run(runs.folder / "lora_start", "sft").workdir
  return {
    "weights": str(start / "model"),
    "tokenizer__path": str(start / "tokenizer.model"),
    "tokenizer__train_vocab_size": 0,
    "model__lora__rank": 4,
    "model__lora__alpha": 8.0,
    "sft__update_steps": 4,
    "sft__validate_every": 2,
  }


@pytest.fixture(scope="module")
def whole(runs, changes):
  """A run of sft and srl on adapters that nothing interrupts."""
  return runs.run(runs.folder / "lora", "sft_srl", **changes)


@pytest.mark.slow
def test_a_run_on_adapters_stops_anywhere_and_ends_with_the_same_bits(
  runs, whole, changes
):
  outcome = experiment.RunOutcome(runs.folder / "lora_pieces")
  for event in (("sft", 3), ("srl", 3)):
    with pytest.raises(KeyboardInterrupt):
      runs.run(
        outcome.workdir,
        "sft_srl",
        events={event: cut},
        outcome=outcome,
        **changes,
      )
  runs.run(outcome.workdir, "sft_srl", outcome=outcome, **changes)
  assert outcome.rows() == whole.rows()
  assert max(row.get("srl/kl_reference", 0) for row in whole.rows()) > 0
  model = "model/model.safetensors"
  ours, theirs = (x.workdir / model for x in (outcome, whole))
  assert ours.read_bytes() == theirs.read_bytes()


def test_checkpoints_hold_adapters_and_their_moments_only(whole):
  state, _, _ = whole.saved["srl", 6]
  paths = traverse_util.flatten_dict(state["params"])
  assert paths and all(lora.is_adapter(path[-1]) for path in paths)
  held = sum(x.size for x in jax.tree.leaves(state))
  count = sum(x.size for x in jax.tree.leaves(state["params"]))
  # Two moments and a few counters.
  assert 3 * count < held < 3 * count + 10


def test_other_weights_under_the_same_name_are_refused(
  runs, whole, changes, tmp_path
):
  # A folder that a run goes on to write, or a name on the hub.
  file = pathlib.Path(changes["weights"]) / "model.safetensors"
  kept, tensors = file.read_bytes(), safetensors.numpy.load_file(file)
  tensors["model.norm.weight"][0] += 0.5
  message = r"changed since .* \(1 of .* such as "
  try:
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match=message):
      runs.run(whole.workdir, "sft_srl", **changes)
    with pytest.raises(ValueError, match=message):
      export.export(whole.workdir, tmp_path / "merged")
    export.export(whole.workdir, tmp_path / "adapter", adapter=True)
  finally:
    file.write_bytes(kept)
  runs.run(whole.workdir, "sft_srl", **changes)


def test_adapters_are_exported_alone_or_merged(runs, whole, changes, tmp_path):
  export.export(whole.workdir, tmp_path / "merged")
  merged = safetensors.numpy.load_file(tmp_path / "merged/model.safetensors")
  final = safetensors.numpy.load_file(whole.workdir / "model/model.safetensors")
  assert merged.keys() == final.keys()
  for name, x in merged.items():
    # The run merged on its mesh, and the export on one device: sums in
    # another order.
    np.testing.assert_allclose(x, final[name], atol=1e-6, err_msg=name)
  export.export(whole.workdir, tmp_path / "adapter", adapter=True)
  config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
  assert (config["r"], config["lora_alpha"]) == (4, 8.0)
  assert config["target_modules"] == sorted(
    f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")
  )
  found = safetensors.numpy.load_file(
    tmp_path / "adapter/adapter_model.safetensors"
  )
  name = "base_model.model.model.layers.0.mlp.down_proj.lora_{}.weight"
  a, b = found[name.format("A")], found[name.format("B")]
  assert (a.shape, b.shape) == ((4, 32), (16, 4))
  mesh = tiny.small_mesh()
  with runs.quickly(), jax.set_mesh(mesh):
    config = runs.config("sft_srl", **changes)
    run = loading.load_run(config, mesh, whole.workdir)
    base = initial_weights.initial_params(run)["blocks"]["mlp"]["down"]
  want = final["model.layers.0.mlp.down_proj.weight"]
  np.testing.assert_allclose(
    base[0].T + 2.0 * b @ a, want, rtol=1e-4, atol=1e-5
  )


def test_adapters_of_a_run_that_has_none_are_refused(runs, tmp_path):
  run = runs.run(
    tmp_path / "run", "sft", sft__update_steps=2, sft__validate_every=0
  )
  with pytest.raises(ValueError, match="there are no adapters; export"):
    export.export(run.workdir, tmp_path / "out", adapter=True)
  assert not (tmp_path / "out").exists()


def test_adapters_of_a_bfloat16_base_train_in_float32():
  model = LanguageModel(
    dataclasses.replace(MODEL.config, param_dtype="bfloat16")
  )
  mesh = tiny.small_mesh()
  boxed = jax.eval_shape(model.init, jax.random.key(0))
  params = abstract.with_shardings(
    nn.unbox(boxed), sharding.tree_shardings(boxed, mesh, model.rules)
  )
  state = Updater(
    grpo_loss(model, LossConfig(), 1.0),
    optim.make_optimizer(optim.OptimConfig(), 10),
    optax.constant_schedule(0.01),
    params,
    mesh,
  ).abstract_state()
  assert {str(x.dtype) for x in jax.tree.leaves(state.frozen)} == {"bfloat16"}
  assert {str(x.dtype) for x in jax.tree.leaves(state.trained)} == {"float32"}
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert {str(x.dtype) for x in moments} == {"float32"}
  # Both moments, and no copy: the adapters are float32 themselves.
  size = sum(x.size for x in jax.tree.leaves(state.trained))
  assert sum(x.size for x in moments) == 2 * size
