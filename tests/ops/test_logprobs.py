# SPDX-License-Identifier: Apache-2.0
"""Log-probs in chunks: hand numbers, equality with the whole, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as extend_core

from srl_jax.ops.logprobs import token_logps
from srl_jax.testing.compilation import quick_compilation


@pytest.fixture(autouse=True, scope="module")
def _quick():
  with quick_compilation():
    yield


N, R, C, D, V = 2, 3, 7, 5, 11
RNG = np.random.default_rng(0)
HIDDEN_NRCD = RNG.standard_normal((N, R, C, D)).astype(np.float32)
TABLE_DV = RNG.standard_normal((D, V)).astype(np.float32)
TOKENS_NRC = RNG.integers(0, V, (N, R, C))
WEIGHT_NRC = RNG.standard_normal((N, R, C)).astype(np.float32)


@pytest.mark.parametrize(
  ("temperature", "probability"),
  # Odds of 1 to 3; at temperature 1/2 they are squared, 1 to 9.
  [(1.0, 0.75), (0.5, 0.9), (2.0, 3**0.5 / (1 + 3**0.5))],
)
def test_log_prob_and_entropy_by_hand(temperature, probability):
  logits = np.log(np.array([1.0, 3.0], np.float32)).reshape(1, 1, 1, 2)
  logp, entropy = token_logps(
    lambda x: x,
    jnp.asarray(logits),
    np.ones((1, 1, 1), np.int32),
    temperature=temperature,
    chunk_tokens=0,
  )
  p = probability
  # Logarithms in float32 are good to some 1e-7.
  np.testing.assert_allclose(logp[0, 0, 0], np.log(p), rtol=1e-5)
  want = -p * np.log(p) - (1 - p) * np.log(1 - p)
  np.testing.assert_allclose(entropy[0, 0, 0], want, rtol=1e-5)


def weighted_sum(table_DV, hidden_NRCD, chunk_tokens):
  logp, entropy = token_logps(
    lambda hidden: hidden @ table_DV,
    hidden_NRCD,
    TOKENS_NRC,
    temperature=0.7,
    chunk_tokens=chunk_tokens,
  )
  return (WEIGHT_NRC * logp).sum(), (logp, entropy)


GRAD = jax.jit(
  jax.grad(weighted_sum, argnums=(0, 1), has_aux=True),
  static_argnames="chunk_tokens",
)


# 12 tokens are two positions, which do not divide C = 7; 1 is less than one
# position, which then is the chunk; 100 and 0 are the whole.
@pytest.mark.parametrize("chunk_tokens", [1, 12, 100])
def test_chunked_equals_whole(chunk_tokens):
  grads, values = GRAD(TABLE_DV, HIDDEN_NRCD, chunk_tokens=chunk_tokens)
  whole_grads, whole_values = GRAD(TABLE_DV, HIDDEN_NRCD, chunk_tokens=0)
  # Sums of at most 42 terms in another order; single values of the same terms
  # may be fused differently.
  for got, want in zip(
    jax.tree.leaves((grads, values)),
    jax.tree.leaves((whole_grads, whole_values)),
    strict=True,
  ):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def largest_array(jaxpr):
  """Elements of the largest array that a program makes on its way."""
  sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
  inner = [
    largest_array(sub)
    for eqn in jaxpr.eqns
    for sub in extend_core.jaxprs_in_params(eqn.params)
  ]
  return max([*sizes, *inner, 0])


def test_no_array_of_tokens_times_vocabulary_is_ever_made():
  vocab = 1000
  table_DV = jnp.zeros((D, vocab))

  def size(chunk_tokens):
    run = functools.partial(GRAD, chunk_tokens=chunk_tokens)
    return largest_array(jax.make_jaxpr(run)(table_DV, HIDDEN_NRCD).jaxpr)

  assert size(0) >= N * R * C * vocab
  # One position of all branches, forward and backward; the gradient of the
  # table itself is smaller.
  assert size(N * R) == N * R * vocab


def test_the_entropy_has_no_gradient():
  def entropy(hidden):
    return token_logps(
      lambda x: x @ TABLE_DV, hidden, TOKENS_NRC, temperature=1, chunk_tokens=0
    )[1].sum()

  assert not np.any(jax.jit(jax.grad(entropy))(HIDDEN_NRCD))


@jax.jit
def bfloat16_logps(tokens_NRC):
  table_DV = TABLE_DV.astype(jnp.bfloat16)
  return token_logps(
    lambda x: x @ table_DV,
    jnp.asarray(HIDDEN_NRCD, jnp.bfloat16),
    tokens_NRC,
    temperature=1.0,
    chunk_tokens=0,
  )


def test_bfloat16_states_are_scored_in_float32():
  scored = [bfloat16_logps(np.full((N, R, C), token)) for token in range(V)]
  assert {x.dtype for x in jax.tree.leaves(scored)} == {np.dtype(np.float32)}
  # The probabilities of all tokens add up; bfloat16 would miss by some 1e-3.
  total = sum(np.exp(logp) for logp, _ in scored)
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)
