# SPDX-License-Identifier: Apache-2.0
"""Every family against transformers itself, on the same tiny checkpoints.

Per layer and whole, padded left and right, at long positions, sampled and
scored; and the way back: what is exported loads there with the same logits.
"""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax.models import LanguageModel, LoraConfig, hf_files, peft, weights
from srl_jax.rollout.decode import SamplingConfig, rollout
from srl_jax.testing.lanes import branch_logps
from srl_jax.testing.tiny import random_params, small_mesh
from srl_jax.types import Trunks
from tests.support import families

pytestmark = [
  pytest.mark.parity,
  # Of torch and transformers, not ours.
  pytest.mark.filterwarnings("ignore"),
]

N, S, NEW = 2, 30, 10
RNG = np.random.default_rng(1)
TOKENS = RNG.integers(1, 64, (N, S))
LENGTHS = np.array([S, 19])
# Float32 through up to seven layers of large weights, summed in another order;
# 5e-5 was seen. Mistakes are a hundred times as large (see test_families).
CLOSE = {"rtol": 0, "atol": 3e-4}


@pytest.fixture(scope="module", params=families.CONFIGS)
def both(request, tmp_path_factory):
  """(model, parameters, the same in transformers)."""
  transformers = pytest.importorskip("transformers")
  folder = tmp_path_factory.mktemp(request.param) / "model"
  families.write(folder, request.param, files=2)
  theirs = load_theirs(transformers, folder)
  model = LanguageModel(hf_files.HfCheckpoint(folder).config)
  mesh = small_mesh()
  with jax.set_mesh(mesh):
    params = weights.load_params(folder, model, mesh, jax.random.key(0))
    yield model, params, theirs


def load_theirs(transformers, folder):
  # Eager attention: the only one with soft caps.
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager"
  )
  return model.eval()


def run_theirs(model, tokens, position=None, mask=None):
  """(logits, hidden states of all layers) as numpy."""
  import torch

  def as_torch(x):
    return None if x is None else torch.from_numpy(np.ascontiguousarray(x))

  with torch.no_grad():
    out = model(
      as_torch(tokens),
      attention_mask=as_torch(mask),
      position_ids=as_torch(position),
      output_hidden_states=True,
    )
  return out.logits.numpy(), [x.numpy() for x in out.hidden_states]


def run_ours(model, params, tokens_NS, position_NS, cut=1):
  """Final hidden states [N, S - cut, D] of what follows the first tokens."""

  @jax.jit
  def run(params):
    trunk = model.trunk(params, tokens_NS[:, :cut], position_NS[:, :cut])
    hidden, _ = model.branch(
      params,
      tokens_NS[:, None, cut:],
      position_NS[:, None, cut:],
      position_NS[:, cut - 1 : cut] + 1,
      trunk,
    )
    return hidden[:, 0], model.logits(params, hidden)[:, 0]

  return [np.asarray(x) for x in run(params)]


POSITIONS = np.broadcast_to(np.arange(S), (N, S))


def test_every_layer_is_that_of_transformers(both):
  model, params, theirs = both
  _, hidden = run_theirs(theirs, TOKENS)
  for layers in range(1, model.config.n_layers + 1):
    config = dataclasses.replace(model.config, n_layers=layers)
    cut = jax.tree.map(lambda x, n=layers: x[:n], params["blocks"])
    got, _ = run_ours(
      LanguageModel(config), params | {"blocks": cut}, TOKENS, POSITIONS
    )
    want = hidden[layers]
    # The last one is normed there, as all are here.
    if layers < model.config.n_layers:
      import torch

      with torch.no_grad():
        want = theirs.model.norm(torch.from_numpy(want)).numpy()
    np.testing.assert_allclose(
      got, want[:, 1:], **CLOSE, err_msg=f"layer {layers}"
    )


@pytest.mark.parametrize("first", [0, 3000])
def test_logits_agree_at_early_and_late_positions(both, first):
  model, params, theirs = both
  position = POSITIONS + first
  want, _ = run_theirs(theirs, TOKENS, position)
  for cut in (1, 17):
    _, got = run_ours(model, params, TOKENS, position, cut)
    np.testing.assert_allclose(got, want[:, cut:], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_is_what_transformers_makes_of_it(both, side):
  model, params, theirs = both
  slots = np.arange(S)
  first = (S - LENGTHS if side == "left" else 0 * LENGTHS)[:, None]
  is_token = (slots >= first) & (slots < first + LENGTHS[:, None])
  position = np.where(is_token, slots - first, 0)
  want, _ = run_theirs(theirs, TOKENS, position, is_token.astype(np.int64))
  # The last token of each row is the branch, what is before it the trunk.
  last = (first[:, 0] if side == "left" else 0) + LENGTHS - 1
  rows = np.arange(N)

  @jax.jit
  def run(params):
    at = np.where(is_token & (slots < last[:, None]), position, -1)
    trunk = model.trunk(params, TOKENS, at)
    hidden, _ = model.branch(
      params,
      TOKENS[rows, last][:, None, None],
      (LENGTHS - 1)[:, None, None],
      (LENGTHS - 1)[:, None],
      trunk,
    )
    return model.logits(params, hidden)[:, 0, 0]

  np.testing.assert_allclose(run(params), want[rows, last], **CLOSE)


def make_trunks():
  return Trunks(
    tokens_NS=TOKENS[:, :-1].astype(np.int32),
    length_N=np.full(N, S - 1, np.int32),
    branch_at_NK=np.full((N, 1), S - 1, np.int32),
    stem_NKC=TOKENS[:, None, -1:].astype(np.int32),
    stem_length_NK=np.ones((N, 1), np.int32),
    point_id_NK=np.arange(N, dtype=np.uint32)[:, None],
    is_real_NK=np.ones((N, 1), bool),
  )


def test_samples_have_the_log_probs_that_transformers_gives_them(both):
  model, params, theirs = both
  trunks = make_trunks()
  config = SamplingConfig(samples=2, max_new_tokens=NEW, temperature=1.0)

  @jax.jit
  def run(params):
    branches, _ = rollout(
      model,
      params,
      trunks,
      jax.random.key(0),
      config=config,
      stop_ids=(),
      pad_id=0,
    )
    scored, *_ = branch_logps(
      model, params, trunks, branches, temperature=1.0, max_logits=100
    )
    return branches, scored

  branches, scored = jax.device_get(run(params))
  for n in range(N):
    for r in range(2):
      row = [*TOKENS[n, :-1], *branches.tokens_NRC[n, r]]
      logits, _ = run_theirs(theirs, np.array([row]))
      logp = np.asarray(jax.nn.log_softmax(logits[0, S - 1 : -1]))
      want = np.take_along_axis(logp, branches.tokens_NRC[n, r, 1:, None], 1)
      for got in (branches.sampler_logp_NRC, scored):
        np.testing.assert_allclose(got[n, r, 1:], want[:, 0], **CLOSE)


def test_greedy_continuations_are_those_of_generate(both):
  import torch

  model, params, theirs = both
  config = SamplingConfig(samples=1, max_new_tokens=NEW, temperature=0.0)
  got, _ = jax.jit(
    lambda params: rollout(
      model,
      params,
      make_trunks(),
      jax.random.key(0),
      config=config,
      stop_ids=(),
      pad_id=0,
    )
  )(params)
  ids = torch.from_numpy(TOKENS)
  want = theirs.generate(
    ids,
    attention_mask=torch.ones_like(ids),
    do_sample=False,
    max_new_tokens=NEW,
    min_new_tokens=NEW,
    pad_token_id=0,
  )
  np.testing.assert_array_equal(got.tokens_NRC[:, 0, 1:], want[:, S:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_exported_loads_in_transformers(both, tmp_path, dtype):
  import transformers

  model, params, theirs = both
  out = tmp_path / "out"
  weights.save_params(out, params, model, dtype=dtype, max_file_bytes=20_000)
  again = load_theirs(transformers, out)
  assert str(again.dtype) == f"torch.{dtype}"
  want, _ = run_theirs(theirs, TOKENS)
  got, _ = run_theirs(again.float(), TOKENS)
  if dtype == "float32":
    np.testing.assert_array_equal(got, want)
  else:
    # Weights rounded to 8 bits, through layers that are not.
    assert 1e-4 < np.abs(got - want).mean() < 0.15 * np.abs(want).mean()


def test_adapters_load_in_peft(both, tmp_path):
  import transformers

  peft_library = pytest.importorskip("peft")
  model, params, _ = both
  base = tmp_path / "base"
  weights.save_params(base, params, model, dtype="float32")
  config = dataclasses.replace(model.config, lora=LoraConfig(rank=3, alpha=6.0))
  adapted = LanguageModel(config)
  # Random adapters on the weights of the checkpoint.
  every = jax.tree.map(
    lambda x, s: jax.device_put(x, s),
    random_params(adapted),
    small_mesh_shardings(adapted),
  )
  changed = merge_trees(every, params)
  out = tmp_path / "adapter"
  peft.save_adapters(out, changed, adapted, base=str(base))
  theirs = peft_library.PeftModel.from_pretrained(
    load_theirs(transformers, base), out
  )
  want, _ = run_theirs(theirs.eval(), TOKENS)
  _, got = run_ours(adapted, changed, TOKENS, POSITIONS)
  scale = np.abs(want).max()
  # Adapters of this size make large numbers.
  np.testing.assert_allclose(got, want[:, 1:], rtol=0, atol=1e-3 * scale)
  _, without = run_ours(model, params, TOKENS, POSITIONS)
  assert np.abs(got - without).max() > 0.1


def small_mesh_shardings(model):
  from srl_jax import sharding

  abstract = jax.eval_shape(model.init, jax.random.key(0))
  return sharding.tree_shardings(abstract, small_mesh(), model.rules)


def merge_trees(tree, other):
  """The leaves of `other` where it has them, those of `tree` elsewhere."""
  if not isinstance(tree, dict):
    return other
  return {
    key: merge_trees(x, other[key]) if key in other else x
    for key, x in tree.items()
  }
