# SPDX-License-Identifier: Apache-2.0
"""The transformer: against numpy, who sees whom, caches, numerics, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from srl_jax.models import KeyValues, LanguageModel, ModelConfig
from srl_jax.sharding import ShardingRules
from srl_jax.testing.tiny import TINY, random_params

MODEL = LanguageModel(dataclasses.replace(TINY, tie_embeddings=False))
PARAMS = random_params(MODEL)
# Two branches on a trunk of six tokens; all tokens differ, so the gradient
# with respect to a row of the embedding tells which position was looked at.
TRUNK_NS = np.array([[1, 2, 3, 4, 5, 6]])
BRANCH_NRT = np.array([[[10, 11, 12, 13, 14], [20, 21, 22, 23, 24]]])
BRANCH_AT_NR = np.array([[3, 6]])
# Float32 through two layers, summed in another order.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def branch_positions(branch_at_NR, width):
  return branch_at_NR[..., None] + np.arange(width)


@jax.jit
def branch_logits(
  params, trunk_NS, trunk_position_NS, branch_NRT, position_NRT, branch_at_NR
):
  trunk = MODEL.trunk(params, trunk_NS, trunk_position_NS)
  hidden, _ = MODEL.branch(
    params, branch_NRT, position_NRT, branch_at_NR, trunk, None
  )
  return MODEL.logits(params, hidden)


def shared_logits(params=PARAMS):
  return branch_logits(
    params,
    TRUNK_NS,
    np.arange(6)[None],
    BRANCH_NRT,
    branch_positions(BRANCH_AT_NR, 5),
    BRANCH_AT_NR,
  )


def numpy_logits(params, c, tokens):
  """The decoder of Qwen2, one sequence, unrolled, in float64."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def norm(x, scale):
    mean_square = (x**2).mean(-1, keepdims=True)
    return x / np.sqrt(mean_square + c.norm_epsilon) * scale

  def rotate(x):  # [T, heads, E]
    half = c.head_width // 2
    angle = np.arange(len(x))[:, None, None] * (
      c.rope_theta ** (-np.arange(half) / half)
    )
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

  def attention(x, w):
    width = len(tokens), -1, c.head_width
    project = lambda name: (  # noqa: E731
      np.tensordot(x, w[name], 1) + w[f"{name}_bias"]
    ).reshape(width)
    q, k, v = rotate(project("q")), rotate(project("k")), project("v")
    out = np.zeros_like(q)
    for head in range(c.n_heads):
      # Query heads come in groups that share a key/value head.
      kv = head // (c.n_heads // c.n_kv_heads)
      logits = q[:, head] @ k[:, kv].T / np.sqrt(c.head_width)
      weights = np.tril(np.exp(logits))
      weights /= weights.sum(-1, keepdims=True)
      out[:, head] = weights @ v[:, kv]
    return out.reshape(len(tokens), -1) @ w["o"].reshape(-1, c.d_model)

  x = p["embedding"][tokens]
  for layer in range(c.n_layers):
    w = jax.tree.map(lambda x, i=layer: x[i], p["blocks"])
    x = x + attention(norm(x, w["attention_norm"]["scale"]), w["attention"])
    h = norm(x, w["mlp_norm"]["scale"])
    gate, up = h @ w["mlp"]["gate"], h @ w["mlp"]["up"]
    x = x + (gate / (1 + np.exp(-gate)) * up) @ w["mlp"]["down"]
  table = p["embedding"] if c.tie_embeddings else p["head"]
  return norm(x, p["final_norm"]["scale"]) @ table.T


def test_branches_on_a_trunk_are_qwen2_on_whole_sequences():
  got = shared_logits()
  for r, at in enumerate(BRANCH_AT_NR[0]):
    sequence = [*TRUNK_NS[0, :at], *BRANCH_NRT[0, r]]
    want = numpy_logits(PARAMS, MODEL.config, sequence)[at:]
    np.testing.assert_allclose(got[0, r], want, **CLOSE)


def test_without_qkv_bias_there_are_no_biases():
  model = LanguageModel(dataclasses.replace(TINY, qkv_bias=False))
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert set(params["blocks"]["attention"]) == {"q", "k", "v", "o"}


def test_tied_embeddings_are_the_head():
  model = LanguageModel(TINY)
  params = random_params(model)
  assert "head" not in params
  hidden = np.ones((1, TINY.d_model), np.float32)
  np.testing.assert_allclose(
    model.logits(params, hidden), params["embedding"].sum(-1)[None], **CLOSE
  )


# One program for all positions: gradients of r * 5 + t, by embedding row.
@jax.jit
def who_is_seen(params):
  def logits(embedding):
    return shared_logits(params | {"embedding": embedding})[0].max(-1).ravel()

  return jax.jacrev(logits)(params["embedding"])


def test_a_token_sees_its_past_its_trunk_and_nothing_else():
  seen = np.abs(who_is_seen(PARAMS)).max(-1)
  for r, at in enumerate(BRANCH_AT_NR[0]):
    for t in range(5):
      past = {*TRUNK_NS[0, :at], *BRANCH_NRT[0, r, : t + 1]}
      # Exactly: no gradient at all from the future, from the trunk behind the
      # branch point, or from the other branch.
      assert set(np.flatnonzero(seen[r * 5 + t])) == past


def test_a_wider_cache_holds_the_same_with_the_oldest_column_in_front():
  position_NRC = np.array([[[4, 5, 2, 3]]])
  # Two layers; what stands at a position is its number.
  k_NRHEC = np.broadcast_to(position_NRC[..., None, None, :], (1, 1, 1, 2, 4))
  v_NRHCE = np.moveaxis(k_NRHEC, -1, -2)
  cache = KeyValues((k_NRHEC,) * 2, (v_NRHCE,) * 2, position_NRC)
  grown = cache.grow(6, 2)
  assert grown.position.tolist() == [[[2, 3, 4, 5, -1, -1]]]
  for k, v in zip(grown.k, grown.v, strict=True):
    assert k.tolist() == [[[[[2, 3, 4, 5, 0, 0]] * 2]]]
    np.testing.assert_array_equal(np.moveaxis(v, -2, -1), k)


@pytest.fixture(scope="module")
def decoded():
  """Logits [N, R, T, V] of the branches, decoded token by token."""
  position_NRT = branch_positions(BRANCH_AT_NR, 5)
  params = MODEL.for_decoding(PARAMS)
  trunk = jax.jit(MODEL.trunk)(params, TRUNK_NS, np.arange(6)[None])

  @jax.jit
  def step(cache, slot):
    hidden, cache = MODEL.branch(
      params,
      jax.lax.dynamic_slice_in_dim(BRANCH_NRT, slot, 1, axis=2),
      jax.lax.dynamic_slice_in_dim(position_NRT, slot, 1, axis=2),
      BRANCH_AT_NR,
      trunk,
      cache,
      slot,
    )
    return cache, MODEL.logits(params, hidden)[:, :, 0]

  # Longer than needed, as the sampler's is for all but the longest branch.
  cache = MODEL.init_cache(trunk, 2, 8)
  assert isinstance(cache, KeyValues)
  logits = []
  for slot in range(5):
    cache, of_slot = step(cache, slot)
    logits.append(of_slot)
  np.testing.assert_array_equal(
    cache.position[0],
    [[3, 4, 5, 6, 7, -1, -1, -1], [6, 7, 8, 9, 10, -1, -1, -1]],
  )
  return np.stack(logits, axis=2)


def test_cached_decoding_equals_the_full_forward_pass(decoded):
  np.testing.assert_allclose(decoded, shared_logits(), **CLOSE)


def turn_of_decoding(model):
  """The program of a turn, as text."""
  params = model.for_decoding(PARAMS)
  token_NRT = np.array([[[1], [2]]])
  trunk = model.trunk(params, TRUNK_NS, np.arange(6)[None])

  def turn(cache):
    position_NRT = branch_positions(BRANCH_AT_NR, 1)
    return model.branch(
      params, token_NRT, position_NRT, BRANCH_AT_NR, trunk, cache, 0
    )

  return jax.jit(turn).lower(model.init_cache(trunk, 2, 8)).as_text()


def test_a_turn_of_decoding_on_cpu_computes_no_cosines():
  # XLA would compute them again for every head of every layer.
  program = turn_of_decoding(MODEL)
  assert "dynamic_update_slice" in program
  assert "cosine" not in program


def test_a_turn_of_decoding_is_not_cut_into_blocks():
  # They would move the cache of every branch.
  cut = dataclasses.replace(MODEL.config, attention_logits=1)
  assert "while" not in turn_of_decoding(LanguageModel(cut))


def padded(tokens, position, left, right, value):
  """Token ids and positions with padding of arbitrary ids around them."""
  pad = [(0, 0)] * (tokens.ndim - 1) + [(left, right)]
  return (
    np.pad(tokens, pad, constant_values=value),
    np.pad(position, pad, constant_values=-1),
  )


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 3), (1, 2)])
def test_padding_changes_nothing_wherever_it_lies(left, right):
  trunk = padded(TRUNK_NS, np.arange(6)[None], left, right, 30)
  branch = padded(
    BRANCH_NRT, branch_positions(BRANCH_AT_NR, 5), left, right, 31
  )
  got = branch_logits(PARAMS, *trunk, *branch, BRANCH_AT_NR)
  np.testing.assert_allclose(
    got[:, :, left : left + 5], shared_logits(), **CLOSE
  )


def test_empty_rows_give_no_nan_and_no_gradient_under_jit():
  # Row 1 is what fills up a batch: an empty trunk, branches of length 0.
  trunk_NS = np.repeat(TRUNK_NS, 2, axis=0)
  trunk_position_NS = np.stack([np.arange(6), np.full(6, -1)])
  branch_NRT = np.repeat(BRANCH_NRT, 2, axis=0)
  position_NRT = np.concatenate(
    [branch_positions(BRANCH_AT_NR, 5), np.full((1, 2, 5), -1)]
  )
  branch_at_NR = np.concatenate([BRANCH_AT_NR, [[0, 0]]])

  @jax.jit
  @jax.grad
  def gradient(params, row_weight_N):
    logits = branch_logits(
      params,
      trunk_NS,
      trunk_position_NS,
      branch_NRT,
      position_NRT,
      branch_at_NR,
    )
    return (logits.max(-1).sum((1, 2)) * row_weight_N).sum()

  for leaf in jax.tree.leaves(gradient(PARAMS, np.array([1.0, 0.0]))):
    assert np.isfinite(leaf).all() and np.any(leaf)
  for leaf in jax.tree.leaves(gradient(PARAMS, np.array([0.0, 0.0]))):
    assert not np.any(leaf)


def trunk_gradient(remat):
  """Gradient through the trunk, and how often its program rematerialises."""
  model = LanguageModel(dataclasses.replace(MODEL.config, remat=remat))
  weight = np.random.default_rng(0).standard_normal(6).astype(np.float32)

  def total(params):
    kv = model.trunk(params, TRUNK_NS, np.arange(6)[None])
    return jnp.einsum("LNHES,LNHSE,S->", kv.k, kv.v, weight)

  gradient = jax.grad(total)
  count = str(jax.make_jaxpr(gradient)(PARAMS)).count("remat")
  return jax.jit(gradient)(PARAMS), count


def test_recomputing_changes_the_memory_and_not_the_gradient():
  want, count = trunk_gradient("none")
  assert count == 0
  for remat in ("full", "dots"):
    got, count = trunk_gradient(remat)
    assert count > 0
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got, want
    )


def test_bfloat16_is_for_activations_and_scores_are_float32():
  model = LanguageModel(dataclasses.replace(MODEL.config, dtype="bfloat16"))
  params = jax.eval_shape(model.init, jax.random.key(0))
  params = nn.unbox(params)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
  trunk = jax.eval_shape(model.trunk, params, TRUNK_NS, np.arange(6)[None])
  assert trunk.k.dtype == trunk.v.dtype == jnp.bfloat16
  hidden, new = jax.eval_shape(
    model.branch, params, BRANCH_NRT, BRANCH_NRT, BRANCH_AT_NR, trunk
  )
  cache = jax.eval_shape(lambda trunk: model.init_cache(trunk, 2, 8), trunk)
  assert hidden.dtype == new.k.dtype == cache.k.dtype == jnp.bfloat16
  assert jax.eval_shape(model.logits, params, hidden).dtype == jnp.float32


def test_every_parameter_names_its_axes():
  boxed = jax.eval_shape(MODEL.init, jax.random.key(0))
  leaves = traverse_util.flatten_dict(boxed, sep="/")
  known = {field.name for field in dataclasses.fields(ShardingRules)} | {None}
  for name, leaf in leaves.items():
    assert isinstance(leaf, nn.LogicallyPartitioned), name
    assert len(leaf.names) == leaf.value.ndim, name
    assert set(leaf.names) <= known, name
    assert (leaf.names[0] == "layers") == name.startswith("blocks/"), name
  assert leaves["blocks/attention/q"].names == (
    *("layers", "embed", "kv_heads", None, "head_width"),
  )
  assert leaves["embedding"].names == ("vocab", "embed")


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"n_heads": 4, "n_kv_heads": 3}, "not a multiple of n_kv_heads=3"),
    ({"head_width": 5}, "head_width=5 is odd"),
  ],
)
def test_an_impossible_shape_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    ModelConfig(**fields)
