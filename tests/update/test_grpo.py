# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps with a scripted policy, whose gradients are known by hand.

The script has one row of logits per last token, so the gradient of the
log-prob of a token is (1 at that token, minus the probabilities) in its row.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from srl_jax import reductions
from srl_jax.testing import scripted
from srl_jax.testing.scripted import ScriptedModel
from srl_jax.testing.tiny import make_trunk, make_trunks, small_mesh
from srl_jax.types import Branches
from srl_jax.update.batch import MicroBatch
from srl_jax.update.grpo import LossConfig, branch_logps, grpo_loss, sft_loss
from srl_jax.update.optim import OptimConfig, learning_rate
from srl_jax.update.updater import Updater, compiled_count

MODEL = ScriptedModel()
MESH = small_mesh()
STEPS = 10
V = 4
# After token 0: probabilities 0.4, 0.3, 0.2, 0.1. After the others: uniform.
P = np.array([0.4, 0.3, 0.2, 0.1])
LOGP_VV = np.log(np.stack([P, *[np.full(V, 0.25)] * 3])).astype(np.float32)
SCRIPT = scripted.after_token(LOGP_VV)
# Logarithms and exponentials in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def groups(rows, rewards, *, sampler_logp=None, trunk=(1,), points=1):
  """A batch of completions, by hand.

  Args:
    rows: rows[n][k][g] is a completion; each follows the stem [0]. A group
      None is a padding point.
    rewards: [n][k][g]; anything for padding points.
    sampler_logp: of all completion tokens; None for what the script gives.
    trunk: its tokens.
    points: of each trunk.
  """
  trunks = [
    make_trunk(
      trunk,
      *[
        (1, [0], 10 * n + k) for k, group in enumerate(row) if group is not None
      ],
    )
    for n, row in enumerate(rows)
  ]
  trunks = make_trunks(trunks, points=points)
  samples = np.shape(rewards)[-1]
  flat = [
    [completion for group in row for completion in group or [None] * samples]
    for row in rows
  ]
  width = 1 + max(len(c or ()) for row in flat for c in row)
  shape = (len(flat), len(flat[0]))
  tokens_NRC = np.zeros((*shape, width), np.int32)
  length_NR = np.zeros(shape, np.int32)
  logp_NRC = np.zeros((*shape, width), np.float32)
  for n, r in np.ndindex(shape):
    if flat[n][r] is not None:
      tokens = [0, *flat[n][r]]
      length_NR[n, r] = len(tokens)
      tokens_NRC[n, r, : len(tokens)] = tokens
      own = LOGP_VV[tokens[:-1], tokens[1:]]
      logp_NRC[n, r, 1 : len(tokens)] = (
        own if sampler_logp is None else sampler_logp
      )
  slots_C = np.arange(width)
  return MicroBatch(
    trunks=trunks,
    branches=Branches(
      tokens_NRC=tokens_NRC,
      length_NR=length_NR,
      is_completion_NRC=(slots_C >= 1) & (slots_C < length_NR[..., None]),
      sampler_logp_NRC=logp_NRC,
      stopped_NR=length_NR > 0,
    ),
    reward_NKG=np.asarray(rewards, np.float32),
    is_fresh_NK=trunks.is_real_NK,
  )


def value_and_gradient(batch, config=LossConfig(), temperature=1.0, **options):
  """(loss, gradient of the loss in the table, metrics of the micro-batch)."""
  loss_fn = grpo_loss(MODEL, config, temperature)
  reference = options.get("reference")

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
  # Advantages 1 and -1, ratios 1: the terms cancel in the loss, and in the
  # gradient all but (e_2 - e_1) / 2, averaged over the two samples.
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


# The example of ops/losses: completions of three tokens and of one.
UNEQUAL = groups([[[[0, 0, 0], [1]]]], [[[1.0, 0.0]]])


def reinforce_by_hand(weights):
  """Gradient in row 0 when the tokens' advantages have these weights."""
  zeros, one = weights
  return -(zeros * (np.eye(V)[0] - P) - one * (np.eye(V)[1] - P))


@pytest.mark.parametrize(
  ("config", "weights"),
  [
    # Each sequence counts 1/2, its tokens share that.
    (LossConfig(), (3 * (1 / 3) / 2, 1 / 2)),
    # Each of the four tokens counts 1/4.
    (LossConfig(aggregation="token_mean"), (3 / 4, 1 / 4)),
    # Each token counts 1 / (2 sequences * 10 tokens).
    (
      LossConfig(aggregation="fixed_divisor", divisor_tokens=10),
      (3 / 20, 1 / 20),
    ),
    # Advantages of 1/2 instead of 1.
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
  """Both samples draw token 1, of which the policy now gives ratio * more."""
  sampler_logp = np.log(0.3 / ratio)
  return groups([[[[1], [1]]]], [[[1.0, 0.0]]], sampler_logp=sampler_logp)


@pytest.mark.parametrize(
  ("ratio", "config", "pull"),
  [
    # The good sample is clipped at 1.2 and pulls no more, the bad one pulls
    # with its ratio; unclipped they would cancel.
    (1.5, LossConfig(), 1.5),
    (1.25, LossConfig(clip_high=0.28), 0.0),
    (1.25, LossConfig(), 1.25),
    # Below, the bad sample is clipped.
    (0.5, LossConfig(), -0.5),
    (0.75, LossConfig(clip_low=0.3), 0.0),
    # Nothing is lost to clipping: both pull, and cancel.
    (1.5, LossConfig(surrogate="truncated"), 0.0),
  ],
)
def test_ratios_outside_the_clip_interval_by_hand(ratio, config, pull):
  _, gradient, metrics = value_and_gradient(off_policy(ratio), config)
  want = pull * (np.eye(V)[1] - P) / 2
  np.testing.assert_allclose(gradient[0], want, **CLOSE)
  # The stem counts as 1.
  np.testing.assert_allclose(metrics["ratio_max"], max(ratio, 1), **CLOSE)
  is_outside = not 1 - config.clip_low < ratio < 1 + config.clip_high
  assert metrics["clipped_share"] == is_outside
  np.testing.assert_allclose(
    metrics["logp_gap_max"], abs(np.log(ratio)), **CLOSE
  )


def test_the_importance_cap_is_the_configured_one():
  # The bad sample draws token 2 from the policy itself, the good one token 1
  # at a ratio of 5, which counts as 3.
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]])
  batch.branches.sampler_logp_NRC[0, 0, 1] = np.log(0.3 / 5)
  config = LossConfig(surrogate="truncated", importance_cap=3.0)
  _, gradient, _ = value_and_gradient(batch, config)
  want = -(3 * (np.eye(V)[1] - P) - (np.eye(V)[2] - P)) / 2
  np.testing.assert_allclose(gradient[0], want, **CLOSE)


def test_the_log_prob_gap_is_of_fresh_groups_only():
  batch = off_policy(1.5)._replace(is_fresh_NK=np.array([[False]]))
  _, _, metrics = value_and_gradient(batch)
  assert metrics["logp_gap_max"] == 0
  assert np.isnan(metrics["logp_gap"])
  np.testing.assert_allclose(metrics["ratio_max"], 1.5, **CLOSE)


def test_temperature_is_the_one_that_the_tokens_were_drawn_at():
  # At temperature 1/2 probabilities are squared: 16, 9, 4, 1 of 30.
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]], sampler_logp=np.log(0.3))
  _, gradient, metrics = value_and_gradient(batch, temperature=0.5)
  np.testing.assert_allclose(metrics["ratio_max"], 1.0, **CLOSE)
  # The second sample's ratio is 4/30 over 9/30: worse and rarer already, it
  # is out. d logp / d logit is divided by the temperature, too.
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
  # The reference gives token 1 twice, token 2 half of what the policy gives.
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
  # Stem and padding tokens that policy or sampler find impossible: exp of
  # their difference is infinite, and 0 * infinity is nan.
  table = np.array(SCRIPT.after_token_VV)
  reference = scripted.after_token(table)
  table[1:] = [-300, 0, 0, 0]
  params = scripted.after_token(table)
  batch = groups([[[[1], [2]]]], [[[1.0, 0.0]]], trunk=(1,))
  # A stem [1, 0]: the policy gives its second token exp(-300).
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
  loss, gradient, _ = value_and_gradient(
    batch,
    LossConfig(kl_coefficient=0.5),
    params=params,
    reference=reference,
  )
  assert np.isfinite(loss)
  np.testing.assert_allclose(gradient[0], [0, -0.5, 0.5, 0], **CLOSE)
  assert not gradient[1:].any()


def test_sft_is_cross_entropy_of_the_experts_tokens():
  batch = groups(
    [[[[0, 1]], [[2]]], [[[3]], None]], np.zeros((2, 2, 1)), points=2
  )
  loss_fn = sft_loss(MODEL, max_logits=0)
  loss, metrics = jax.jit(loss_fn)(SCRIPT, batch, None)
  # Tokens after 0: 0, 1, 2 and 3. The stems are given, not predicted.
  np.testing.assert_allclose(loss.numerator, -np.log(P).sum(), **CLOSE)
  assert loss.denominator == 4
  got = reductions.reduce_metrics([metrics])
  np.testing.assert_allclose(got["loss"], -np.log(P).mean(), **CLOSE)
  assert got["tokens_trained"] == 4
  assert got["accuracy"] == 0
  # A policy sure of token 0 after 0: one of four.
  sure = scripted.after_token(np.log([[0.7, 0.1, 0.1, 0.1]] * V))
  _, metrics = jax.jit(loss_fn)(sure, batch, None)
  assert reductions.reduce_metrics([metrics])["accuracy"] == 0.25


def first_params():
  """Copies, because an updater consumes them."""
  whole = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec())
  return {"script": jax.device_put(jax.tree.map(np.array, SCRIPT), whole)}


def new_updater(config=LossConfig(), optim=OptimConfig(learning_rate=0.1)):
  def loss_fn(params, batch, reference):
    script = params["script"]
    # The other table would move along.
    fixed = jax.lax.stop_gradient(script.at_position_PV)
    inner = grpo_loss(MODEL, config, 1.0)
    return inner(script._replace(at_position_PV=fixed), batch, reference)

  return Updater(
    loss_fn,
    make_plain(optim, STEPS),
    learning_rate(optim, STEPS),
    first_params(),
    MESH,
  )


made_updater = functools.cache(new_updater)


def start(*configs):
  """An updater, whose programs tests share, and a state of the test's own."""
  updater = made_updater(*configs)
  return updater, updater.init(first_params())


def make_plain(optim, steps):
  """Gradient descent, so that a step is the gradient times the rate."""
  return optax.chain(
    optax.clip_by_global_norm(optim.max_grad_norm),
    optax.sgd(learning_rate(optim, steps)),
  )


def table_of(state):
  return np.asarray(state.params["script"].after_token_VV)


# Three rows of completions of different lengths, in two points each.
ROWS = [
  [[[0, 0, 1], [2]], [[1, 1], [3, 0]]],
  [[[2, 0], [0]], None],
  [[[1], [0, 3, 3]], [[0], [0]]],
]
REWARDS = [[[0.3, 0.9], [1, 0]], [[0.2, 0.1], [0, 0]], [[0, 1], [0.5, 0.5]]]


def rows_of(rows, rewards):
  return groups(rows, rewards, points=2)


def same_width(batches):
  """Pads branches to one width, as pack does."""
  width = max(b.branches.tokens_NRC.shape[-1] for b in batches)

  def widen(x):
    return np.pad(x, [(0, 0), (0, 0), (0, width - x.shape[-1])])

  return [
    b._replace(
      branches=b.branches._replace(
        tokens_NRC=widen(b.branches.tokens_NRC),
        is_completion_NRC=widen(b.branches.is_completion_NRC),
        sampler_logp_NRC=widen(b.branches.sampler_logp_NRC),
      )
    )
    for b in batches
  ]


@pytest.mark.parametrize(
  "config",
  [
    LossConfig(),
    LossConfig(aggregation="token_mean", max_logits=4),
    LossConfig(aggregation="fixed_divisor", divisor_tokens=3),
  ],
  ids=lambda config: config.aggregation,
)
def test_micro_batches_give_the_step_of_the_whole(config):
  whole = rows_of(ROWS, REWARDS)
  parts = same_width(
    [rows_of([row], [r]) for row, r in zip(ROWS, REWARDS, strict=True)]
  )
  # The last micro-batch may be empty, as when it is filled up.
  parts.append(jax.tree.map(np.zeros_like, parts[0]))
  results = []
  for batches in ([whole], parts, parts[::-1]):
    updater, state = start(config)
    state, metrics, step = updater.update(state, batches, 0)
    of_batches = reductions.reduce_metrics(metrics)
    results.append((table_of(state), of_batches, step.grad_norm))
  before = np.asarray(SCRIPT.after_token_VV)
  assert abs(results[0][0] - before).max() > 0.003
  for table, of_batches, norm in results[1:]:
    # Sums of 8 terms in another order.
    np.testing.assert_allclose(table, results[0][0], **CLOSE)
    np.testing.assert_allclose(norm, results[0][2], **CLOSE)
    for name, value in of_batches.items():
      np.testing.assert_allclose(
        value, results[0][1][name], err_msg=name, **CLOSE
      )


def test_a_step_is_the_averaged_gradient_times_the_rate():
  updater, state = start()
  state, _, metrics = updater.update(state, [ONE_TOKEN], 0)
  moved = table_of(state)[0] - np.log(P)
  # The gradient by hand, at a rate of 0.1; its norm is below the clip of 1.
  np.testing.assert_allclose(moved, [0, 0.05, -0.05, 0], **CLOSE)
  np.testing.assert_allclose(metrics.grad_norm, 0.5**0.5, **CLOSE)
  np.testing.assert_allclose(metrics.learning_rate, 0.1, **CLOSE)


def test_the_reported_norm_is_from_before_clipping():
  clipped = OptimConfig(learning_rate=0.1, max_grad_norm=0.1)
  updater, state = start(LossConfig(), clipped)
  state, _, metrics = updater.update(state, [ONE_TOKEN], 0)
  np.testing.assert_allclose(metrics.grad_norm, 0.5**0.5, **CLOSE)
  moved = table_of(state)[0] - np.log(P)
  np.testing.assert_allclose(np.linalg.norm(moved), 0.1 * 0.1, **CLOSE)


def test_a_second_pass_over_a_batch_is_clipped():
  # One pass lifts token 1 by more than the clip interval; the second pulls
  # at neither sample any more.
  updater, state = start(LossConfig(), OptimConfig(learning_rate=2.0))
  state, [first], _ = updater.update(state, [ONE_TOKEN], 0)
  once = table_of(state)
  state, [second], step = updater.update(state, [ONE_TOKEN], 1)
  first, second = (reductions.reduce_metrics([m]) for m in (first, second))
  assert first["clipped_share"] == 0
  np.testing.assert_allclose(first["ratio_max"], 1.0, **CLOSE)
  # Logits of tokens 1 and 2 moved by one up and down.
  weights = P * np.exp([0, 1, -1, 0])
  ratio = weights[1] / weights.sum() / 0.3
  np.testing.assert_allclose(second["ratio_max"], ratio, **CLOSE)
  assert second["clipped_share"] == 1
  assert step.grad_norm == 0
  np.testing.assert_array_equal(table_of(state), once)


def test_the_rate_of_a_step_is_that_of_its_schedule():
  optim = OptimConfig(learning_rate=0.1, schedule="linear", warmup_ratio=0.2)
  updater, state = start(LossConfig(), optim)
  rates = []
  for step in range(4):
    state, _, metrics = updater.update(state, [ONE_TOKEN], step)
    rates.append(float(metrics.learning_rate))
  np.testing.assert_allclose(rates, [0.05, 0.1, 0.1, 0.0875], **CLOSE)


def test_a_batch_of_padding_changes_nothing():
  updater, state = start()
  empty = jax.tree.map(np.zeros_like, ONE_TOKEN)
  state, _, metrics = updater.update(state, [empty], 0)
  np.testing.assert_array_equal(table_of(state), SCRIPT.after_token_VV)
  assert metrics.grad_norm == 0


def test_two_programs_whatever_the_number_of_micro_batches():
  updater = new_updater()
  state = updater.init(first_params())
  counts = []
  for step, batches in enumerate((1, 3, 2)):
    state, _, _ = updater.update(state, [ONE_TOKEN] * batches, step)
    counts.append(compiled_count(updater.accumulate, updater.finish))
  assert counts == [2, 2, 2]


def test_the_old_state_is_given_up():
  updater, state = start()
  new, _, _ = updater.update(state, [ONE_TOKEN], 0)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert not any(x.is_deleted() for x in jax.tree.leaves(new))


branch_logps = functools.partial(
  branch_logps, MODEL, temperature=1.0, max_logits=0
)


def test_the_first_token_of_a_branch_is_given_and_scores_nothing():
  batch = rows_of(ROWS, REWARDS)
  logp_NRC, entropy_NRC = jax.jit(branch_logps)(
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
