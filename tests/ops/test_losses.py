# SPDX-License-Identifier: Apache-2.0
"""Policy losses and aggregations against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import losses

# Logarithms and exponentials in float32 are good to some 1e-7.
EXP = {"rtol": 1e-6, "atol": 1e-7}


@functools.partial(jax.jit, static_argnames=("low", "high"))
@jax.value_and_grad
def surrogate(logp, advantage, low=0.2, high=0.2):
  """Loss of one token, and its gradient with respect to the log-prob."""
  return losses.clipped_surrogate(
    logp.reshape(1, 1, 1),
    jnp.full((1, 1, 1), SAMPLER_LOGP),
    advantage.reshape(1, 1),
    clip_low=low,
    clip_high=high,
  ).sum()


SAMPLER_LOGP = -2.0


def surrogate_of(ratio, advantage, **bounds):
  logp = np.float32(SAMPLER_LOGP + np.log(ratio))
  return surrogate(logp, np.float32(advantage), **bounds)


@pytest.mark.parametrize(
  ("ratio", "advantage", "loss", "gradient"),
  [
    (1.0, 2.0, -2.0, -2.0),
    # Better than expected and likelier already: 1.2, not 1.5, and no pull.
    (1.5, 1.0, -1.2, 0.0),
    # Worse and yet likelier: the minimum keeps the 1.5; clipping would give
    # 1.2 and let the token off.
    (1.5, -1.0, 1.5, 1.5),
    # Better and yet rarer: 0.5; clipping would give -0.8.
    (0.5, 1.0, -0.5, -0.5),
    # Worse and rarer already: 0.8, not 0.5, and no pull.
    (0.5, -1.0, 0.8, 0.0),
    (1.1, 3.0, -3.3, -3.3),
  ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
  got = surrogate_of(ratio, advantage)
  np.testing.assert_allclose(got, (loss, gradient), **EXP)


@pytest.mark.parametrize(
  ("ratio", "advantage", "loss", "gradient"),
  [
    # Worse and 42 times likelier: 3 * 0.5, not 42 * 0.5, and no gradient.
    (42.0, -0.5, 1.5, 0.0),
    (2.5, -0.5, 1.25, 1.25),
    # Elsewhere it is the clipped surrogate.
    (0.5, -1.0, 0.8, 0.0),
    (42.0, 0.5, -0.6, 0.0),
    (1.1, 3.0, -3.3, -3.3),
    (5.0, 0.0, 0.0, 0.0),
  ],
)
def test_dual_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
  @jax.value_and_grad
  def of_one(logp):
    return losses.dual_clipped_surrogate(
      logp.reshape(1, 1, 1),
      jnp.full((1, 1, 1), SAMPLER_LOGP),
      jnp.full((1, 1), advantage),
      clip_low=0.2,
      clip_high=0.2,
      dual_clip=3.0,
    ).sum()

  got = of_one(jnp.float32(SAMPLER_LOGP + np.log(ratio)))
  np.testing.assert_allclose(got, (loss, gradient), rtol=2e-6, atol=1e-7)


def test_the_clip_bounds_are_two():
  # DAPO's clip-higher: upwards 0.28, downwards 0.2.
  np.testing.assert_allclose(
    surrogate_of(1.5, 1.0, low=0.2, high=0.28), (-1.28, 0.0), **EXP
  )
  np.testing.assert_allclose(
    surrogate_of(0.5, -1.0, low=0.2, high=0.28), (0.8, 0.0), **EXP
  )


def test_on_policy_the_surrogate_is_reinforce():
  logp_NRC = np.log(np.array([[[0.3, 0.2], [0.9, 0.5]]], np.float32))
  advantage_NR1 = np.array([[[1.5], [-0.5]]], np.float32)

  def whole(logp):
    return losses.clipped_surrogate(
      logp, logp_NRC, advantage_NR1, clip_low=0.2, clip_high=0.2
    ).sum()

  def reinforce(logp):
    return -(advantage_NR1 * logp).sum()

  value, gradient = jax.jit(jax.value_and_grad(whole))(logp_NRC)
  # Ratio exactly 1: minus the advantages, two tokens each.
  assert value == -2 * 1.5 + 2 * 0.5
  want = jax.jit(jax.grad(reinforce))(logp_NRC)
  np.testing.assert_array_equal(gradient, want)


def test_the_sampler_gets_no_gradient():
  advantage = np.ones((1, 1), np.float32)

  def total(sampler_logp, logp):
    own = (logp, sampler_logp, advantage)
    parts = (
      losses.clipped_surrogate(*own, clip_low=9, clip_high=9),
      losses.truncated_importance(*own, cap=9),
      losses.kl_k3(logp, sampler_logp),
    )
    return sum(part.sum() for part in parts)

  logp = np.full((1, 1, 1), -1.2, np.float32)
  of_sampler, of_policy = jax.jit(jax.grad(total, (0, 1)))(logp - 0.1, logp)
  assert of_sampler == 0.0
  assert of_policy < -1.0


@jax.jit
@jax.value_and_grad
def truncated(logp):
  return losses.truncated_importance(
    logp.reshape(1, 1, 1),
    jnp.full((1, 1, 1), SAMPLER_LOGP),
    jnp.full((1, 1), 3.0),
    cap=2.0,
  ).sum()


@pytest.mark.parametrize(
  ("ratio", "weight"),
  # Above the cap the weight is 2; below it is the ratio, where the clipped
  # surrogate has lost its gradient.
  [(1.0, 1.0), (1.5, 1.5), (5.0, 2.0), (0.25, 0.25)],
)
def test_truncated_importance_weights_without_losing_tokens(ratio, weight):
  logp = np.float32(SAMPLER_LOGP + np.log(ratio))
  got = truncated(logp)
  # The gradient is that of the log-prob alone: not of the weight, too.
  np.testing.assert_allclose(
    got, (-weight * 3.0 * logp, -weight * 3.0), rtol=1e-5
  )


def test_only_what_was_better_than_expected_is_imitated():
  logp_NBW = jnp.array([[[-0.5, -1.0, -2.0]]])
  advantage_NBW = jnp.array([[[1.0, 0.0, -1.0]]])
  loss_NBW = losses.imitation(logp_NBW, logp_NBW, advantage_NBW)
  assert loss_NBW.tolist() == [[[0.5, 0.0, 0.0]]]


k3 = jax.jit(jax.value_and_grad(losses.kl_k3))


def test_k3_by_hand():
  # d = ln(1/4) - ln(1/2) = -ln 2: exp(d) - d - 1 = 0.5 + 0.693 - 1. With the
  # sign of d turned round it would be 2 - 0.693 - 1 = 0.307.
  got, _ = k3(*np.log(np.array([0.5, 0.25], np.float32)))
  np.testing.assert_allclose(got, 0.1931472, **EXP)


def test_k3_averages_to_the_kl_of_the_policy_from_the_reference():
  # Mean under the policy, weighted exactly: KL(policy || reference) = 0.1438;
  # KL(reference || policy) would be 0.1308.
  policy_V = np.array([0.5, 0.5], np.float32)
  reference_V = np.array([0.25, 0.75], np.float32)
  k3_V = jax.jit(losses.kl_k3)(np.log(policy_V), np.log(reference_V))
  k3_V = np.asarray(k3_V)
  assert (k3_V > 0).all()
  np.testing.assert_allclose((policy_V * k3_V).sum(), 0.1438410, rtol=1e-5)


def test_k3_of_the_reference_itself_is_zero_and_flat():
  assert k3(np.float32(-1.3), np.float32(-1.3)) == (0.0, 0.0)


# The docstrings' example: three tokens of loss 1, one of loss 3.
LOSS_NRC = np.array([[[1.0, 1.0, 1.0], [3.0, 7.0, 7.0]]], np.float32)
COUNTED_NRC = np.array([[[True, True, True], [True, False, False]]])


def branches_of(counted_NRC):
  """Number of branches with tokens, if each lane holds one branch."""
  return counted_NRC.any(-1).sum(-1)


@jax.jit
def sequence_mean(loss_NRC, counted_NRC):
  tokens_NRC = counted_NRC * counted_NRC.sum(-1, keepdims=True)
  return losses.sequence_mean(loss_NRC, tokens_NRC, branches_of(counted_NRC))


@jax.jit
def fixed_divisor(loss_NRC, counted_NRC):
  return losses.fixed_divisor(
    loss_NRC, counted_NRC, branches_of(counted_NRC), divisor_tokens=4
  )


TOKEN_MEAN = jax.jit(losses.token_mean)
MODES = pytest.mark.parametrize(
  "aggregate",
  [sequence_mean, TOKEN_MEAN, fixed_divisor],
  ids=["sequence", "token", "fixed"],
)


@pytest.mark.parametrize(
  ("aggregate", "numerator", "denominator"),
  [
    # (1 + 3) / 2 = 2; the token mean would be 1.5.
    (sequence_mean, 4.0, 2.0),
    # (1 + 1 + 1 + 3) / 4 = 1.5; the sequence mean would be 2.
    (TOKEN_MEAN, 6.0, 4.0),
    # (3 + 3) / (2 * 4) = 0.75.
    (fixed_divisor, 6.0, 8.0),
  ],
)
def test_aggregations_differ_on_unequal_lengths(
  aggregate, numerator, denominator
):
  got = aggregate(LOSS_NRC, COUNTED_NRC)
  assert got == (numerator, denominator)
  assert all(x.dtype == jnp.float32 for x in got)


@MODES
def test_a_masked_token_is_as_good_as_dropped(aggregate):
  # Masked tokens hold numbers that would show; a third, empty sequence must
  # not count as one of loss 0.
  loss_NRC = [[[1.0, 2.0, np.inf], [4.0, np.nan, 9.0], [5.0, 5.0, 5.0]]]
  loss_NRC = np.array(loss_NRC, np.float32)
  counted_NRC = np.array([[[1, 1, 0], [1, 0, 0], [0, 0, 0]]], bool)
  dropped_NRC = np.array([[[1.0, 2.0], [4.0, 0.0]]], np.float32)
  kept_NRC = np.array([[[True, True], [True, False]]])
  assert aggregate(loss_NRC, counted_NRC) == aggregate(dropped_NRC, kept_NRC)


def test_branches_of_one_lane_count_as_those_of_two():
  # The docstrings' example with both sequences back to back.
  loss_NBW = np.array([[[1.0, 1.0, 1.0, 3.0]]], np.float32)
  tokens_NBW = np.array([[[3, 3, 3, 1]]])
  two_N = np.array([2])
  got = losses.sequence_mean(loss_NBW, tokens_NBW, two_N)
  assert got == (4.0, 2.0)
  got = losses.fixed_divisor(loss_NBW, tokens_NBW > 0, two_N, divisor_tokens=4)
  assert got == (6.0, 8.0)


@MODES
def test_nothing_counted_gives_zero_and_a_finite_gradient(aggregate):
  counted_NRC = np.zeros_like(COUNTED_NRC)
  assert aggregate(LOSS_NRC, counted_NRC) == (0.0, 0.0)
  gradient = jax.jit(jax.grad(lambda x: aggregate(x, counted_NRC).numerator))
  np.testing.assert_array_equal(gradient(LOSS_NRC), np.zeros((1, 2, 3)))


@MODES
def test_parts_of_micro_batches_add(aggregate):
  # Means of means would be 2 twice and 1.75.
  whole = aggregate(LOSS_NRC, COUNTED_NRC)
  parts = [aggregate(LOSS_NRC[:, [i]], COUNTED_NRC[:, [i]]) for i in (0, 1)]
  assert whole == tuple(sum(x) for x in zip(*parts, strict=True))


def test_ratios_of_sequences_have_the_gradient_of_gspo():
  # A lane of a sequence of three tokens, an empty cell, and one of two.
  first = jnp.array([[[0, 0, 0, 3, 4, 4]]])
  tokens = jnp.array([[[3, 3, 3, 0, 2, 2]]])
  advantage = jnp.array([[[1.0, 1, 1, 0, -2, -2]]])
  old = jnp.array([[[-1.0, -2, -3, 0, -1, -2]]])
  logp = old + jnp.array([[[0.3, -0.1, 0.1, 0, 0.5, -0.2]]])

  def ours(logp):
    against = losses.with_sequence_ratio(logp, old, first, tokens)
    loss = losses.clipped_surrogate(
      logp, against, advantage, clip_low=0.2, clip_high=0.2
    )
    ratio = losses.sequence_mean(loss, tokens, jnp.array([2]))
    return ratio.numerator / ratio.denominator

  def gspo(logp):
    """GSPO's equations 5 and 7, sequence by sequence."""
    loss = 0.0
    for cells, a in ((slice(0, 3), 1.0), (slice(4, 6), -2.0)):
      s = jnp.exp((logp - old)[0, 0, cells].mean())
      loss -= jnp.minimum(s * a, jnp.clip(s, 0.8, 1.2) * a) / 2
    return loss

  for f in (lambda x: x, lambda x: 3 * x - 2 * old):  # the second is clipped
    got, want = (jax.value_and_grad(g)(f(logp)) for g in (ours, gspo))
    np.testing.assert_allclose(got[0], want[0], **EXP)
    np.testing.assert_allclose(got[1], want[1], **EXP)
  assert not np.any(want[1][0, 0, :3]) and np.all(want[1][0, 0, 4:])
