# SPDX-License-Identifier: Apache-2.0
"""Log-probs in chunks: hand numbers, equality with the whole, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import logprobs
from srl_jax.ops.logprobs import Head, token_logps

try:
  from jax.extend.core import jaxprs_in_params
except ImportError:  # Where JAX 0.7 has it.
  from jax.core import jaxprs_in_params

N, R, C, D, V = 2, 3, 7, 5, 12
RNG = np.random.default_rng(0)
HIDDEN_NRCD = RNG.standard_normal((N, R, C, D)).astype(np.float32)
TABLE_VD = RNG.standard_normal((V, D)).astype(np.float32)
TOKENS_NRC = RNG.integers(0, V, (N, R, C))
WEIGHT_NRC = RNG.standard_normal((N, R, C)).astype(np.float32)


@pytest.mark.parametrize(
  ("temperature", "probability"),
  # Odds of 1 to 3; at temperature 1/2 they are squared, 1 to 9.
  [(1.0, 0.75), (0.5, 0.9), (2.0, 3**0.5 / (1 + 3**0.5))],
)
# The second with its own code, if in one block.
@pytest.mark.parametrize("max_logits", [0, 1])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_log_prob_and_entropy_by_hand(
  temperature, probability, max_logits, softcap
):
  logits = np.log(np.array([1.0, 3.0], np.float32)).reshape(1, 1, 1, 2)
  if softcap:
    # What the cap makes ln 3 of. Without the cap the odds would be 1 to 3.4.
    logits = softcap * np.arctanh(logits / softcap)
  logp, entropy, _ = token_logps(
    Head(jnp.eye(2), softcap=softcap),
    jnp.asarray(logits),
    np.ones((1, 1, 1), np.int32),
    temperature=temperature,
    max_logits=max_logits,
  )
  p = probability
  # Logarithms in float32 are good to some 1e-7.
  np.testing.assert_allclose(logp[0, 0, 0], np.log(p), rtol=1e-5)
  want = -p * np.log(p) - (1 - p) * np.log(1 - p)
  np.testing.assert_allclose(entropy[0, 0, 0], want, rtol=1e-5)


@pytest.mark.parametrize("max_logits", [0, 1])
# All logits may be far below zero.
@pytest.mark.parametrize("shift", [0, -200])
def test_every_token_that_no_other_beats_is_at_the_top(
  narrow, max_logits, shift
):
  # Twelve tokens in blocks of four. The largest logit, 2, is that of token 3
  # and of token 8. With the opposite state it is 0, that of tokens 0, 2 and 9.
  logit_V = np.array([0, 1, 0, 2, 1, 1, 1, 1, 2, 0, 1, 1], np.float32)
  logit_V += shift
  hidden_RC = np.stack([np.ones(V), -np.ones(V)]).astype(np.float32)
  logp, _, is_top = token_logps(
    Head(logit_V[:, None]),
    hidden_RC[None, ..., None],
    np.broadcast_to(np.arange(V), (1, 2, V)),
    temperature=1.0,
    max_logits=max_logits,
  )
  # Float32 has some 1e-5 of 200.
  np.testing.assert_allclose(np.exp(logp).sum(-1), 1, rtol=1e-4)
  assert np.flatnonzero(is_top[0, 0]).tolist() == [3, 8]
  assert np.flatnonzero(is_top[0, 1]).tolist() == [0, 2, 9]


def weighted_sum(table_VD, hidden_NRCD, max_logits, devices):
  logp, entropy, _ = token_logps(
    Head(table_VD, devices),
    hidden_NRCD,
    TOKENS_NRC,
    temperature=0.7,
    max_logits=max_logits,
  )
  return (WEIGHT_NRC * logp).sum(), (logp, entropy)


def grad(table_VD, hidden_NRCD, max_logits, devices=1):
  run = functools.partial(weighted_sum, max_logits=max_logits, devices=devices)
  return jax.grad(run, argnums=(0, 1), has_aux=True)(table_VD, hidden_NRCD)


@pytest.fixture
def narrow(monkeypatch):
  """Blocks of up to five tokens of the vocabulary, which is of twelve."""
  monkeypatch.setattr(logprobs, "_WIDEST", 5)
  monkeypatch.setattr(logprobs, "_NARROWEST", 2)


# All positions at once in three blocks; two at a time, which does not divide
# C = 7; one at a time. On two devices there are two blocks of three each.
@pytest.mark.parametrize("max_logits", [503, 12 * 4, 1])
@pytest.mark.parametrize("devices", [1, 2])
def test_blocks_equal_the_whole(narrow, max_logits, devices):
  run = jax.jit(grad, static_argnums=(2, 3))
  grads, values = run(TABLE_VD, HIDDEN_NRCD, max_logits, devices)
  whole_grads, whole_values = run(TABLE_VD, HIDDEN_NRCD, 0, 1)
  # Sums of at most 42 terms in another order.
  for got, want in zip(
    jax.tree.leaves((grads, values)),
    jax.tree.leaves((whole_grads, whole_values)),
    strict=True,
  ):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_the_width_of_a_block_divides_the_vocabulary():
  # Of Qwen2.5, of its large sizes, of Llama 3, of one that is small, of one
  # split over eight devices, and of a prime number of tokens.
  for vocab, width in (
    (151_936, 4748),
    (152_064, 6912),
    (128_256, 8016),
    (512, 512),
    (151_936 // 8, 4748),
    (65_537, 65_537),
  ):
    assert logprobs.block_width(vocab) == width


def largest_array(jaxpr):
  """Elements of the largest array that a program makes on its way."""
  sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
  inner = [
    largest_array(sub)
    for eqn in jaxpr.eqns
    for sub in jaxprs_in_params(eqn.params)
  ]
  return max([*sizes, *inner, 0])


def test_memory_depends_neither_on_tokens_times_vocabulary_nor_on_either():
  def size(vocab, length, max_logits):
    run = functools.partial(token_logps, temperature=1.0, max_logits=max_logits)

    def total(table_VD, hidden, tokens):
      return run(Head(table_VD), hidden, tokens)[0].sum()

    program = jax.make_jaxpr(jax.grad(total, (0, 1)))(
      jnp.zeros((vocab, 1)),
      jnp.zeros((1, R, length, 1)),
      np.zeros((1, R, length), np.int32),
    )
    return largest_array(program.jaxpr)

  limit = 8192 * R * 8
  assert size(2**17, 64, 0) >= 64 * R * 2**17
  # The states and the table themselves are smaller here.
  assert size(2**17, 64, limit) == size(2**16, 64, limit) == limit
  assert size(2**17, 640, limit) == limit


@pytest.mark.parametrize("max_logits", [0, 48])
def test_the_entropy_has_no_gradient(narrow, max_logits):
  def entropy(hidden):
    return token_logps(
      Head(TABLE_VD), hidden, TOKENS_NRC, temperature=1, max_logits=max_logits
    )[1].sum()

  assert not np.any(jax.jit(jax.grad(entropy))(HIDDEN_NRCD))


@functools.partial(jax.jit, static_argnums=1)
def bfloat16_logps(tokens_NRC, max_logits):
  return token_logps(
    Head(TABLE_VD.astype(jnp.bfloat16)),
    jnp.asarray(HIDDEN_NRCD, jnp.bfloat16),
    tokens_NRC,
    temperature=1.0,
    max_logits=max_logits,
  )


@pytest.mark.parametrize("max_logits", [0, 1])
def test_bfloat16_states_are_scored_in_float32(max_logits):
  scored = [
    bfloat16_logps(np.full((N, R, C), token), max_logits) for token in range(V)
  ]
  dtypes = {x.dtype for found in scored for x in (found.logp, found.entropy)}
  assert dtypes == {np.dtype(np.float32)}
  hidden_NRCD, table_VD = (
    np.asarray(x, jnp.bfloat16).astype(np.float64)
    for x in (HIDDEN_NRCD, TABLE_VD)
  )
  want_NRCV = jax.nn.log_softmax(hidden_NRCD @ table_VD.T)
  logp_NRCV = np.stack([found.logp for found in scored], axis=-1)
  # Logits that are rounded to bfloat16 would miss by some 1e-2.
  np.testing.assert_allclose(logp_NRCV, want_NRCV, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
  jax.__version_info__ < (0, 8),
  reason="jaxlib 0.7.2 does not multiply bfloat16 into float32 on a CPU",
)
@pytest.mark.parametrize("max_logits", [0, 1])
def test_gradients_of_blocks_and_chunks_are_summed_in_float32(
  narrow, max_logits
):
  # One position a chunk. Summed in bfloat16, the table's are wrong by 6%.
  hidden = np.asarray(RNG.standard_normal((1, 1, 512, D)), jnp.bfloat16)
  table_VD = np.asarray(TABLE_VD, jnp.bfloat16)
  tokens_NRC = RNG.integers(0, V, (1, 1, 512))

  def total(table_VD, hidden, max_logits):
    return token_logps(
      Head(table_VD), hidden, tokens_NRC, temperature=1, max_logits=max_logits
    ).logp.sum()

  grads = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
  exact = grads(*(x.astype(np.float32) for x in (table_VD, hidden)), 0)
  for got, want in zip(grads(table_VD, hidden, max_logits), exact, strict=True):
    error = np.linalg.norm(got.astype(np.float32) - want)
    # Each is rounded to 8 bits a few times.
    assert error < 0.005 * np.linalg.norm(want)
