# SPDX-License-Identifier: Apache-2.0
"""The distribution that is drawn from, and that draws follow it."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import sampling

distribution = jax.jit(
  sampling.distribution, static_argnames=("temperature", "top_k", "top_p")
)
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def probs(weights, **options):
  logits = np.log(np.array([weights], np.float32))
  return np.exp(distribution(logits, **{**OFF, **options}))[0]


@pytest.mark.parametrize(
  ("options", "want"),
  [
    ({}, [0.5, 0.3, 0.2]),
    # Temperature 1/2 squares the odds: 25, 9, 4.
    ({"temperature": 0.5}, [25 / 38, 9 / 38, 4 / 38]),
    ({"top_k": 2}, [0.625, 0.375, 0]),
    ({"top_k": 3}, [0.5, 0.3, 0.2]),
    # More than there are tokens: all of them.
    ({"top_k": 5}, [0.5, 0.3, 0.2]),
    ({"top_k": 1}, [1, 0, 0]),
    # The smallest set that holds 0.6 is the first two, 0.8; a set that holds
    # at most 0.6 would be the first alone.
    ({"top_p": 0.6}, [0.625, 0.375, 0]),
    ({"top_p": 0.4}, [1, 0, 0]),
    ({"top_p": 1e-9}, [1, 0, 0]),
    ({"top_p": 0.81}, [0.5, 0.3, 0.2]),
    # Temperature comes first: of 25, 9, 4 the first two hold 0.89, of
    # 50, 30, 20 they would hold 0.8 and the third would stay.
    ({"temperature": 0.5, "top_p": 0.85}, [25 / 34, 9 / 34, 0]),
    # Mass is counted within the top k: there the first holds 0.625. Counted
    # before, it holds 0.5 and the second would stay.
    ({"top_k": 2, "top_p": 0.6}, [1, 0, 0]),
  ],
)
def test_distribution_by_hand(options, want):
  # The order of the tokens must not matter.
  got = probs([0.2, 0.5, 0.3], **options)
  np.testing.assert_allclose(got[[1, 2, 0]], want, atol=1e-6)


def test_each_row_is_filtered_for_itself():
  # Mass 0.7 needs two tokens of the first row and one of the second. Counted
  # on from row to row it would be full before the second begins.
  logits_NBV = np.log([[[0.5, 0.3, 0.2]], [[0.1, 0.8, 0.1]]])
  got_NBV = np.exp(distribution(logits_NBV, **{**OFF, "top_p": 0.7}))
  want_NBV = [[[0.625, 0.375, 0]], [[0, 1, 0]]]
  # Logarithms in float32.
  np.testing.assert_allclose(got_NBV, want_NBV, atol=1e-6)


def test_a_row_that_keeps_all_mass_keeps_every_token():
  # In float32 the first token alone has a mass of 1.
  logits = np.array([[0.0, -20.0]], np.float32)
  off = {name: np.array([[x]]) for name, x in OFF.items()}
  logp = jax.jit(sampling.distribution)(logits, **off)
  np.testing.assert_allclose(logp, logits, atol=1e-6)


def test_a_set_that_holds_the_mass_exactly_is_enough():
  # All numbers are powers of two and exact. The first token alone holds 1/2;
  # with one more there would be [2/3, 1/3, 0] or, with its tie, the input.
  got = probs([0.5, 0.25, 0.25], top_p=0.5)
  np.testing.assert_array_equal(got, [1, 0, 0])


def test_what_is_filtered_out_is_impossible_and_ties_are_kept():
  logits = np.log(np.array([[1.0, 4, 2, 2]], np.float32))
  logp = np.asarray(distribution(logits, **{**OFF, "top_k": 2}))[0]
  np.testing.assert_allclose(np.exp(logp), [0, 0.5, 0.25, 0.25], rtol=1e-6)
  assert logp[0] == -np.inf


def test_the_distribution_is_float32_whatever_the_logits():
  logits = np.random.default_rng(0).standard_normal((3, 500))
  logp = distribution(logits.astype(jnp.bfloat16), **OFF)
  assert logp.dtype == jnp.float32
  # A bfloat16 sum of 500 terms would be off by percents.
  np.testing.assert_allclose(np.exp(logp).sum(-1), 1.0, rtol=1e-5)


def keys(seed, count):
  return jax.random.split(jax.random.key(seed), count)


DRAW = jax.jit(sampling.draw)


def draws(probs_V, count=10_000, seed=0):
  with np.errstate(divide="ignore"):
    logp_BV = np.broadcast_to(np.log(probs_V), (count, len(probs_V)))
  return np.asarray(DRAW(keys(seed, count), logp_BV))


def chi_square(observed, expected):
  return (((observed - expected) ** 2) / expected).sum()


# The token ids straddle the two levels of the search: 4 blocks of 275 tokens,
# or 17 of 482, the last of which is partly padding.
EVEN = [3, 274, 275, 510, 549, 550, 824, 825, 1098, 1099]
ODD = [3, 481, 482, 963, 964, 5000, 7711, 7712, 8191, 8192]


@pytest.mark.parametrize(
  ("vocab", "tokens"), [(10, list(range(10))), (1100, EVEN), (8193, ODD)]
)
def test_ten_thousand_draws_follow_the_distribution(vocab, tokens):
  mass = np.arange(1, 11) / 55
  probs_V = np.zeros(vocab, np.float32)
  probs_V[tokens] = mass
  drawn = draws(probs_V)
  observed = np.bincount(drawn, minlength=vocab)
  assert observed.sum() == observed[tokens].sum(), "an impossible token"
  # 9 degrees of freedom: one run in a thousand exceeds 27.9. With the tokens
  # shifted by one it would be in the thousands.
  assert chi_square(observed[tokens], 1e4 * mass) < 27.9


def test_the_same_key_draws_the_same_token_and_rows_do_not_mix():
  probs_V = np.full(50, 0.02, np.float32)
  drawn = draws(probs_V, 200, seed=1)
  np.testing.assert_array_equal(drawn, draws(probs_V, 200, seed=1))
  # Two in a hundred agree by chance.
  assert (drawn == draws(probs_V, 200, seed=2)).mean() < 0.1
  logp_BV = np.log(np.full((100, 50), 0.02, np.float32))
  half = DRAW(keys(1, 200)[::2], logp_BV)
  np.testing.assert_array_equal(half, drawn[::2])


@pytest.mark.parametrize("vocab", [6, 600])
@pytest.mark.parametrize(("uniform", "want"), [(0.0, 2), (1.0, 4)])
def test_rounding_at_the_ends_never_draws_the_impossible(
  monkeypatch, vocab, uniform, want
):
  # Probability zero at both ends; a uniform number times the total can round
  # to either end of the interval.
  monkeypatch.setattr(
    jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform)
  )
  probs_BV = np.zeros((3, vocab), np.float32)
  probs_BV[:, 2:5] = 1 / 3
  draw = jax.jit(lambda key, probs: sampling.draw(key, jnp.log(probs)))
  drawn = draw(keys(0, 3), probs_BV)
  assert drawn.tolist() == [want] * 3


def test_sums_that_rounding_orders_otherwise_never_draw_the_impossible():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (400, 1187)).astype(np.float32)
  kept = rng.random(logits.shape) < 0.3
  mass = jnp.asarray(np.where(kept, np.exp(logits), 0))
  sums = np.asarray(jax.jit(lambda x: jnp.cumsum(x, -1))(mass))
  rows, cells = np.nonzero((np.diff(sums) > 0) & ~kept[:, 1:])
  # The sum of a cell without mass is more than the one before it.
  assert len(rows) > 100
  uniform = (sums[rows, cells] / sums[rows, -1]).astype(np.float32)
  for towards in (0, 1):
    tried = np.nextafter(uniform, np.float32(towards))
    drawn = np.asarray(jax.jit(sampling._invert)(mass[rows], tried))
    assert kept[rows, drawn].all()


def test_no_device_gathers_the_logits_of_a_row():
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=auto)
  spec = jax.sharding.PartitionSpec

  @jax.jit
  def draw(key_B, logits_BV):
    logp_BV = sampling.distribution(logits_BV, **OFF)
    token_B = sampling.draw(key_B, logp_BV)
    return token_B, jnp.take_along_axis(logp_BV, token_B[:, None], axis=1)

  logits_BV = 5 * jax.random.normal(jax.random.key(0), (64, 1216))
  token_B, logp_B = draw(keys(0, 64), logits_BV)
  with jax.set_mesh(mesh):
    split = jax.device_put(logits_BV, spec("data", "tensor"))
    of_rows = jax.device_put(keys(0, 64), spec("data"))
    split_B, split_logp_B = draw(of_rows, split)
    text = draw.lower(of_rows, split).compile().as_text()
  np.testing.assert_array_equal(split_B, token_B)
  np.testing.assert_allclose(split_logp_B, logp_B, atol=1e-5)
  # A device has 32 rows. Blocks are of 19 tokens; there are 64 of them.
  gathered = re.findall(r"f32\[([\d,]+)\]\S* all-gather", text)
  assert gathered
  sizes = [math.prod(map(int, x.split(","))) for x in gathered]
  assert max(sizes) <= 32 * 64


def test_greedy_takes_the_first_of_the_most_likely():
  logits = jnp.array([[0.0, 2.0, 2.0], [5.0, 1.0, 1.0]])
  assert sampling.draw_greedy(logits).tolist() == [1, 0]
