# SPDX-License-Identifier: Apache-2.0
"""Attention to several sources: by hand, masked as dropped, finite always."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import attention
from srl_jax.ops.attention import Source
from srl_jax.testing.compilation import quick_compilation


@pytest.fixture(autouse=True, scope="module")
def _quick():
  with quick_compilation():
    yield


attend = jax.jit(attention.attend)

N, R, T, H, M, E, S = 2, 3, 4, 2, 2, 6, 5
RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


Q_NRTHME = normal(N, R, T, H, M, E)
TRUNK_K, TRUNK_V = normal(2, N, S, H, E)
OWN_K, OWN_V = normal(2, N, R, T, H, E)
TRUNK_MASK = RNG.random((N, R, 1, S)) < 0.6
CAUSAL = np.broadcast_to(np.tril(np.ones((T, T), bool)), (N, R, T, T))
# Sums of at most 11 terms in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_weights_by_hand():
  # Head width 4, so logits are halved: 2 ln 3 against 0 gives odds of 3 to 1.
  q = np.zeros((1, 1, 1, 1, 1, 4), np.float32)
  q[..., 0] = 2 * np.log(3.0)
  k = np.zeros((1, 1, 2, 1, 4), np.float32)
  k[0, 0, 0, 0, 0] = 1.0
  v = np.array([[8.0] * 4, [4.0] * 4], np.float32).reshape(1, 1, 2, 1, 4)
  got = attend(q, [Source(k, v, np.ones((1, 1, 1, 2), bool))])
  # Without the scaling the odds would be 9 to 1, and the mean 7.6.
  np.testing.assert_allclose(np.ravel(got), [7.0] * 4, rtol=1e-6)


def reference(q_NRTHME, keys, values, is_visible_NRTX):
  """One query at a time, in float64; keys are [N, R, X, H, E]."""
  q, k, v = (np.asarray(x, np.float64) for x in (q_NRTHME, keys, values))
  out = np.zeros(q.shape)
  for n, r, t, h, m in np.ndindex(q.shape[:-1]):
    is_visible_X = np.asarray(is_visible_NRTX)[n, r, t]
    logits = k[n, r, :, h] @ q[n, r, t, h, m] / np.sqrt(q.shape[-1])
    weights = np.where(is_visible_X, np.exp(logits), 0)
    out[n, r, t, h, m] = weights @ v[n, r, :, h] / weights.sum()
  return out


def repeated(x_NSHE):
  return np.repeat(x_NSHE[:, None], R, axis=1)


def test_one_softmax_over_a_shared_trunk_and_the_own_branch():
  sources = [
    Source(TRUNK_K, TRUNK_V, TRUNK_MASK),
    Source(OWN_K, OWN_V, CAUSAL),
  ]
  keys = np.concatenate([repeated(TRUNK_K), OWN_K], axis=2)
  values = np.concatenate([repeated(TRUNK_V), OWN_V], axis=2)
  trunk_mask = np.broadcast_to(TRUNK_MASK, (N, R, T, S))
  visible = np.concatenate([trunk_mask, CAUSAL], axis=-1)
  want = reference(Q_NRTHME, keys, values, visible)
  np.testing.assert_allclose(attend(Q_NRTHME, sources), want, **CLOSE)
  # The order of the sources means nothing, and a copy of the trunk for each
  # branch is the same as sharing it.
  np.testing.assert_allclose(attend(Q_NRTHME, sources[::-1]), want, **CLOSE)
  copied = Source(repeated(TRUNK_K), repeated(TRUNK_V), TRUNK_MASK)
  np.testing.assert_allclose(
    attend(Q_NRTHME, [copied, sources[1]]), want, **CLOSE
  )
  # A softmax per source, averaged, would be something else.
  averaged = sum(np.asarray(attend(Q_NRTHME, [s])) for s in sources) / 2
  assert abs(averaged - want).max() > 0.1


def test_a_masked_key_is_as_good_as_dropped():
  hidden, garbage_k, garbage_v = map(np.copy, (TRUNK_MASK, TRUNK_K, TRUNK_V))
  hidden[..., 2] = False
  garbage_k[:, 2] = garbage_v[:, 2] = 1e4
  own = Source(OWN_K, OWN_V, CAUSAL)
  got = attend(Q_NRTHME, [Source(garbage_k, garbage_v, hidden), own])
  rest = np.delete(np.arange(S), 2)
  dropped = Source(TRUNK_K[:, rest], TRUNK_V[:, rest], TRUNK_MASK[..., rest])
  want = attend(Q_NRTHME, [dropped, own])
  np.testing.assert_allclose(got, want, **CLOSE)


def test_a_query_that_sees_nothing_is_finite_and_pulls_at_nothing():
  # Trunk 1 is padding: none of its queries sees any key.
  blind = np.arange(N)[:, None, None, None] == 1
  arrays = [Q_NRTHME, TRUNK_K, TRUNK_V, OWN_K, OWN_V]

  def total(arrays, blind):
    q, trunk_k, trunk_v, own_k, own_v = (100 * x for x in arrays)
    out = attention.attend(
      q,
      [
        Source(trunk_k, trunk_v, TRUNK_MASK & ~blind),
        Source(own_k, own_v, CAUSAL & ~blind),
      ],
    )
    return jnp.where(blind[..., None, None], 0, out).sum()

  value, grads = jax.jit(jax.value_and_grad(total))(arrays, blind)
  assert np.isfinite(value)
  for grad in grads:
    grad = np.asarray(grad)
    assert np.isfinite(grad).all()
    assert not grad[1].any()
    assert grad[0].any()


def test_visibility_by_hand():
  # Two branch tokens, their padding, and keys left and right of padding.
  query_NRT = np.array([[[4, 5, -1]]])
  key_NRX = np.array([[[-1, 4, 5, -1, 6]]])
  np.testing.assert_array_equal(
    attention.own_visible(query_NRT, key_NRX)[0, 0],
    np.array([[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool),
  )
  # A trunk of three tokens, left padded; branches after 0, 2 and 3 of them.
  trunk_NS = np.array([[-1, -1, 0, 1, 2]])
  np.testing.assert_array_equal(
    attention.trunk_visible(np.array([[0, 2, 3]]), trunk_NS)[0, :, 0],
    np.array([[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], bool),
  )


def test_bfloat16_sums_in_float32():
  # A thousand equal weights: added up in bfloat16 they stall at 256.
  q = np.zeros((1, 1, 1, 1, 1, 2), jnp.bfloat16)
  k = np.zeros((1, 1000, 1, 2), jnp.bfloat16)
  v = np.ones((1, 1000, 1, 2), jnp.bfloat16)
  got = attend(q, [Source(k, v, np.ones((1, 1, 1, 1000), bool))])
  assert got.dtype == jnp.bfloat16
  assert (np.asarray(got) == 1.0).all()
