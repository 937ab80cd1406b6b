# SPDX-License-Identifier: Apache-2.0
"""Losses of a scripted policy, whose gradients are known by hand.

The script has one row of logits per last token, so the gradient of the
log-prob of a token is (1 at that token, minus the probabilities) in its row.
"""

import functools

import jax
import numpy as np
import pytest

from srl_jax import reductions
from srl_jax.testing.lanes import branch_logps
from srl_jax.update.batch import one_branch_per_lane
from srl_jax.update.grpo import LossConfig, grpo_loss, sft_loss
from tests.support import scripted
from tests.support.groups import CLOSE, SCRIPT, P, V, groups
from tests.support.scripted import ScriptedModel

MODEL = ScriptedModel()


def value_and_gradient(
  experience, config=LossConfig(), temperature=1.0, **options
):
  """Returns (loss, its gradient in the table, metrics of the micro-batch)."""
  loss_fn = grpo_loss(MODEL, config, temperature)
  reference = options.get("reference")

  batch = one_branch_per_lane(
    experience,
    divide_by_std=config.divide_by_group_std,
    is_fresh=options.get("is_fresh", True),
  )

  def numerator(params):
    loss, metrics = loss_fn(params, batch, reference)
    return loss.numerator, (loss.denominator, metrics)

  (value, (count, metrics)), gradient = jax.jit(
    jax.value_and_grad(numerator, has_aux=True)
  )(options.get("params", SCRIPT))
  table = np.asarray(gradient.after_token_VV) / count
  return value / count, table, reductions.reduce_metrics([metrics])


ONE_TOKEN = groups([[[[1], [2]]]], [[[1.0, 0.0]]])


def test_one_token_by_hand():
  loss, gradient, metrics = value_and_gradient(ONE_TOKEN)
  # Advantages are 1 and -1, ratios 1: the terms cancel in the loss. In the
  # gradient only (e_2 - e_1) / 2 is left, averaged over the two samples.
  assert abs(loss) < 1e-7
  want = np.zeros((V, V))
  want[0] = [0, -0.5, 0.5, 0]
  np.testing.assert_allclose(gradient, want, **CLOSE)
  entropy = -(P * np.log(P)).sum()
  np.testing.assert_allclose(metrics["entropy"], entropy, **CLOSE)
  np.testing.assert_allclose(metrics["ratio_max"], 1.0, **CLOSE)
  assert metrics["logp_gap_max"] < 1e-6
  assert metrics["clipped_share"] == 0
  assert metrics["tokens_trained"] == 2


# The example of ops/losses.py: completions of three tokens and of one.
UNEQUAL = groups([[[[0, 0, 0], [1]]]], [[[1.0, 0.0]]])


def reinforce_by_hand(weights):
  """Returns the gradient in row 0 for these weights of the advantages."""
  zeros, one = weights
  return -(zeros * (np.eye(V)[0] - P) - one * (np.eye(V)[1] - P))


@pytest.mark.parametrize(
  ("config", "weights"),
  [
    # Each sequence counts 1/2, shared among its tokens.
    (LossConfig(), (3 * (1 / 3) / 2, 1 / 2)),
    # Each of the four tokens counts 1/4.
    (LossConfig(aggregation="token_mean"), (3 / 4, 1 / 4)),
    # Each token counts 1 / (2 sequences * 10 tokens).
    (
      LossConfig(aggregation="fixed_divisor", divisor_tokens=10),
      (3 / 20, 1 / 20),
    ),
    # Advantages are 1/2 instead of 1.
    (LossConfig(divide_by_group_std=False), (1 / 4, 1 / 4)),
    # On policy the surrogates agree.
    (LossConfig(surrogate="truncated"), (1 / 2, 1 / 2)),
  ],
)
def test_aggregations_weigh_tokens_as_their_equations_say(config, weights):
  _, gradient, _ = value_and_gradient(UNEQUAL, config)
  np.testing.assert_allclose(gradient[0], reinforce_by_hand(weights), **CLOSE)
  assert not gradient[1:].any()


def off_policy(ratio):
  """Both samples drew token 1, now `ratio` times as likely in the policy."""
  sampler_logp = np.log(0.3 / ratio)
  return groups([[[[1], [1]]]], [[[1.0, 0.0]]], sampler_logp=sampler_logp)


@pytest.mark.parametrize(
  ("ratio", "config", "pull"),
  [
    # The good sample is clipped at 1.2 and has no gradient. The bad one's is
    # its ratio; unclipped they would cancel.
    (1.5, LossConfig(), 1.5),
    (1.25, LossConfig(clip_high=0.28), 0.0),
    (1.25, LossConfig(), 1.25),
    # Below the interval, the bad sample is clipped.
    (0.5, LossConfig(), -0.5),
    (0.75, LossConfig(clip_low=0.3), 0.0),
    # Nothing is clipped, so both gradients cancel.
    (1.5, LossConfig(surrogate="truncated"), 0.0),
    # Samples of one token are sequences of one ratio.
    (1.5, LossConfig(ratio="sequence"), 1.5),
    (0.5, LossConfig(ratio="sequence"), -0.5),
    # The bad sample is bounded, and the good one is clipped.
    (4.0, LossConfig(surrogate="dual_clipped"), 0.0),
    # Only the good sample counts, whatever its ratio.
    (1.5, LossConfig(surrogate="imitation"), -1.0),
  ],
)
def test_ratios_outside_the_clip_interval_by_hand(ratio, config, pull):
  _, gradient, metrics = value_and_gradient(
    off_policy(ratio), config, is_fresh=False
  )
  want = pull * (np.eye(V)[1] - P) / 2
  np.testing.assert_allclose(gradient[0], want, **CLOSE)
  np.testing.assert_allclose(metrics["ratio_max"], ratio, **CLOSE)
  is_outside = not 1 - config.clip_low < ratio < 1 + config.clip_high
  if config.surrogate in ("truncated", "imitation"):
    assert np.isnan(metrics["clipped_share"])
  else:
    assert metrics["clipped_share"] == is_outside
  # One sample of two has an advantage below 0.
  assert metrics["dual_clipped_share"] == (ratio > config.dual_clip) / 2


@pytest.mark.parametrize("surrogate", ["clipped", "dual_clipped"])
def test_rounding_of_the_sampler_clips_no_fresh_token(surrogate):
  # Beyond the interval on both sides, with an advantage that would be clipped.
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]])
  batch.branches.sampler_logp_NRC[...] = np.log([0.3 / 1.5, 0.2 / 0.5])[
    None, :, None
  ]
  config = LossConfig(surrogate=surrogate)
  _, gradient, metrics = value_and_gradient(batch, config)
  want = -((np.eye(V)[1] - P) - (np.eye(V)[2] - P)) / 2
  np.testing.assert_allclose(gradient[0], want, **CLOSE)
  assert metrics["ratio_max"] == 1 and metrics["clipped_share"] == 0
  # That the two differ is told.
  np.testing.assert_allclose(metrics["logp_gap_max"], np.log(2), **CLOSE)
  # The clip acts where others have sampled.
  _, gradient, metrics = value_and_gradient(batch, config, is_fresh=False)
  assert not gradient.any() and metrics["clipped_share"] == 1


def test_the_importance_cap_is_the_configured_one():
  # The bad sample drew token 2 from the policy itself. The good one drew token
  # 1 at a ratio of 5, which is capped at 3.
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]])
  batch.branches.sampler_logp_NRC[0, 0, 1] = np.log(0.3 / 5)
  config = LossConfig(surrogate="truncated", importance_cap=3.0)
  _, gradient, _ = value_and_gradient(batch, config)
  want = -(3 * (np.eye(V)[1] - P) - (np.eye(V)[2] - P)) / 2
  np.testing.assert_allclose(gradient[0], want, **CLOSE)


def test_the_log_prob_gap_is_of_fresh_groups_only():
  _, _, metrics = value_and_gradient(off_policy(1.5), is_fresh=False)
  assert metrics["logp_gap_max"] == 0
  assert np.isnan(metrics["logp_gap"])
  np.testing.assert_allclose(metrics["ratio_max"], 1.5, **CLOSE)


def test_temperature_is_the_one_that_the_tokens_were_drawn_at():
  # Temperature 1/2 squares probabilities: they are 16, 9, 4 and 1 of 30.
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]], sampler_logp=np.log(0.3))
  _, gradient, metrics = value_and_gradient(
    batch, temperature=0.5, is_fresh=False
  )
  np.testing.assert_allclose(metrics["ratio_max"], 1.0, **CLOSE)
  # The second sample's ratio is 4/30 over 9/30, and its advantage is negative:
  # it is clipped. d logp / d logit is also divided by the temperature.
  assert metrics["clipped_share"] == 0.5
  q = P**2 / (P**2).sum()
  want = -(np.eye(V)[1] - q) / 0.5 / 2
  np.testing.assert_allclose(gradient[0], want, **CLOSE)


def test_kl_pulls_back_to_the_reference():
  config = LossConfig(kl_coefficient=0.5)
  same = value_and_gradient(ONE_TOKEN, config, reference=SCRIPT)
  plain = value_and_gradient(ONE_TOKEN)
  np.testing.assert_allclose(same[1], plain[1], **CLOSE)
  assert abs(same[2]["kl_reference"]) < 1e-6
  # Without a reference nothing is measured, and 0 would say "no drift".
  assert np.isnan(plain[2]["kl_reference"])
  # The reference gives token 1 twice the policy's probability, token 2 half.
  reference = scripted.after_token(
    np.log(np.stack([[0.2, 0.6, 0.1, 0.1], *[np.full(V, 0.25)] * 3]))
  )
  loss, gradient, metrics = value_and_gradient(
    ONE_TOKEN, config, reference=reference
  )
  # k3 = x - ln x - 1 of the ratio x = reference / policy: 2 and 1/2.
  k3 = ((2 - np.log(2) - 1) + (0.5 + np.log(2) - 1)) / 2
  np.testing.assert_allclose(metrics["kl_reference"], k3, **CLOSE)
  np.testing.assert_allclose(loss, 0.5 * k3, **CLOSE)
  # d k3 / d logp = 1 - x.
  e = np.eye(V)
  pull = 0.5 * ((1 - 2) * (e[1] - P) + (1 - 0.5) * (e[2] - P)) / 2
  np.testing.assert_allclose(gradient[0], plain[1][0] + pull, **CLOSE)


def test_what_is_not_counted_cannot_overflow():
  # Policy or sampler find some stem and padding tokens impossible: exp of the
  # difference is infinite, and 0 * infinity is nan.
  table = np.array(SCRIPT.after_token_VV)
  reference = scripted.after_token(table)
  table[1:] = [-300, 0, 0, 0]
  params = scripted.after_token(table)
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]], trunk=(1,))
  # The stem is [1, 0]; the policy gives its second token exp(-300).
  stem = np.full((1, 2, 1), 1, np.int32)
  empty = np.zeros((1, 2, 1))
  b = batch.branches
  batch = batch._replace(
    branches=b._replace(
      tokens_NRC=np.concatenate([stem, b.tokens_NRC], -1),
      length_NR=b.length_NR + 1,
      is_completion_NRC=np.concatenate([empty > 0, b.is_completion_NRC], -1),
      sampler_logp_NRC=np.concatenate(
        [empty.astype(np.float32), b.sampler_logp_NRC], -1
      ),
    )
  )
  loss, gradient, metrics = value_and_gradient(
    batch,
    LossConfig(kl_coefficient=0.5),
    params=params,
    reference=reference,
  )
  assert np.isfinite(loss)
  entropy = -(P * np.log(P)).sum()
  np.testing.assert_allclose(metrics["entropy"], entropy, **CLOSE)
  np.testing.assert_allclose(gradient[0], [0, -0.5, 0.5, 0], **CLOSE)
  assert not gradient[1:].any()


def test_sft_is_cross_entropy_of_the_experts_tokens():
  batch = groups(
    [[[[0, 1]], [[2]]], [[[3]], None]], np.zeros((2, 2, 1)), points=2
  )
  loss_fn = sft_loss(MODEL, max_logits=0)
  loss, metrics = jax.jit(loss_fn)(SCRIPT, one_branch_per_lane(batch), None)
  # The tokens 0, 1, 2 and 3 follow token 0. Stems are given, not predicted.
  np.testing.assert_allclose(loss.numerator, -np.log(P).sum(), **CLOSE)
  assert loss.denominator == 4
  got = reductions.reduce_metrics([metrics])
  np.testing.assert_allclose(got["loss"], -np.log(P).mean(), **CLOSE)
  assert got["tokens_trained"] == 4


@pytest.mark.parametrize(
  ("p", "right", "confident"),
  # The probabilities are those of tokens 0, 1, 2 and 3 after token 0.
  [
    ([0.40, 0.30, 0.20, 0.10], 0.25, 0.0),
    ([0.49, 0.17, 0.17, 0.17], 0.25, 0.0),
    ([0.17, 0.51, 0.16, 0.16], 0.25, 0.25),
    # Two tokens are most likely, and none has more than half.
    ([0.45, 0.45, 0.05, 0.05], 0.5, 0.0),
  ],
)
def test_sft_tells_the_most_likely_tokens_from_the_confident_ones(
  p, right, confident
):
  batch = groups(
    [[[[0, 1]], [[2]]], [[[3]], None]], np.zeros((2, 2, 1)), points=2
  )
  script = scripted.after_token(np.log(np.array([p] * V, np.float32)))
  # The first token of each completion, and one more that follows token 0.
  for max_logits in (0, 1):
    loss_fn = sft_loss(MODEL, max_logits=max_logits)
    _, metrics = jax.jit(loss_fn)(script, one_branch_per_lane(batch), None)
    got = reductions.reduce_metrics([metrics])
    assert got["accuracy"] == right
    assert got["confident_share"] == confident


branch_logps = functools.partial(
  branch_logps, MODEL, temperature=1.0, max_logits=0
)


def test_the_first_token_of_a_branch_is_given_and_scores_nothing():
  batch = groups([[[[0, 1], [2]]], [[[3, 0], [1]]]], np.zeros((2, 1, 2)))
  logp_NRC, entropy_NRC, _ = jax.jit(branch_logps)(
    SCRIPT, batch.trunks, batch.branches
  )
  assert logp_NRC.shape == batch.branches.tokens_NRC.shape
  assert not np.any(logp_NRC[..., 0]) and not np.any(entropy_NRC[..., 0])
  counted = batch.branches.is_completion_NRC
  np.testing.assert_allclose(
    np.asarray(logp_NRC)[counted],
    batch.branches.sampler_logp_NRC[counted],
    **CLOSE,
  )


@pytest.mark.parametrize(
  ("surrogate", "name", "value"),
  [
    ("truncated", "clip_low", 0.1),
    ("imitation", "clip_high", 0.3),
    ("imitation", "divide_by_group_std", False),
    ("imitation", "ratio", "sequence"),
    ("dual_clipped", "importance_cap", 9.0),
  ],
)
def test_what_a_surrogate_does_not_read_is_refused(surrogate, name, value):
  with pytest.raises(ValueError, match=f"^{name}={value!r} has no effect with"):
    LossConfig(surrogate=surrogate, **{name: value}).refuse_unread()
