# SPDX-License-Identifier: Apache-2.0
"""Update steps with a scripted policy, whose gradients are known by hand."""

import functools

import jax
import numpy as np
import optax
import pytest

from srl_jax import reductions
from srl_jax.testing.tiny import small_mesh
from srl_jax.update.batch import one_branch_per_lane
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.optim import OptimConfig, learning_rate
from srl_jax.update.updater import Updater, compiled_count
from tests.support.groups import CLOSE, SCRIPT, P, groups
from tests.support.scripted import ScriptedModel

MODEL = ScriptedModel()
MESH = small_mesh()
STEPS = 10
ONE_TOKEN = one_branch_per_lane(groups([[[[1], [2]]]], [[[1.0, 0.0]]]))


def first_params():
  """Returns copies, because an updater consumes its parameters."""
  whole = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec())
  return {"script": jax.device_put(jax.tree.map(np.array, SCRIPT), whole)}


def new_updater(config=LossConfig(), optim=OptimConfig(learning_rate=0.1)):
  def loss_fn(params, batch, reference):
    script = params["script"]
    # Without this, the other table would change too.
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
  """Returns an updater that tests share, and a new state for the test."""
  updater = made_updater(*configs)
  return updater, updater.init(first_params())


def make_plain(optim, steps):
  """Returns gradient descent: a step is the gradient times the rate."""
  return optax.chain(
    optax.clip_by_global_norm(optim.max_grad_norm),
    optax.sgd(learning_rate(optim, steps)),
  )


def table_of(state):
  return np.asarray(state.params["script"].after_token_VV)


# Three rows of two points, with completions of different lengths.
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
  # A micro-batch may be empty, when it only fills up the batch.
  parts.append(jax.tree.map(np.zeros_like, parts[0]))
  results = []
  whole = one_branch_per_lane(whole)
  parts = [one_branch_per_lane(part) for part in parts]
  for batches in ([whole], parts, parts[::-1]):
    updater, state = start(config)
    state, metrics, step = updater.update(state, batches, 0)
    of_batches = reductions.reduce_metrics(metrics)
    results.append((table_of(state), of_batches, step.grad_norm))
  before = np.asarray(SCRIPT.after_token_VV)
  assert abs(results[0][0] - before).max() > 0.003
  for table, of_batches, norm in results[1:]:
    # Sums of 8 terms are added in different orders.
    np.testing.assert_allclose(table, results[0][0], **CLOSE)
    np.testing.assert_allclose(norm, results[0][2], **CLOSE)
    # The empty micro-batch takes positions too.
    assert of_batches.pop("positions_used") < results[0][1]["positions_used"]
    for name, value in of_batches.items():
      np.testing.assert_allclose(
        value, results[0][1][name], err_msg=name, **CLOSE
      )


def test_a_step_is_the_averaged_gradient_times_the_rate():
  updater, state = start()
  state, _, metrics = updater.update(state, [ONE_TOKEN], 0)
  moved = table_of(state)[0] - np.log(P)
  # The gradient by hand times the rate 0.1; its norm is below the clip of 1.
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
  # One pass raises token 1 beyond the clip interval, so neither sample has a
  # gradient in the second pass.
  updater, state = start(LossConfig(), OptimConfig(learning_rate=1.0))
  state, [first], _ = updater.update(state, [ONE_TOKEN], 0)
  once = table_of(state)
  again = ONE_TOKEN._replace(is_fresh_NBW=ONE_TOKEN.is_fresh_NBW & False)
  state, [second], step = updater.update(state, [again], 1)
  first, second = (reductions.reduce_metrics([m]) for m in (first, second))
  assert first["clipped_share"] == 0
  np.testing.assert_allclose(first["ratio_max"], 1.0, **CLOSE)
  # The logits of tokens 1 and 2 moved up and down by half.
  weights = P * np.exp([0, 0.5, -0.5, 0])
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
  # Nothing public tells how many there are.
  assert compiled_count(print) == 0


def test_the_old_state_is_given_up():
  updater, state = start()
  new, _, _ = updater.update(state, [ONE_TOKEN], 0)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert not any(x.is_deleted() for x in jax.tree.leaves(new))


def test_no_second_copy_of_parameters_or_gradients_is_kept():
  updater, params = new_updater(), first_params()
  state = updater.init(params)
  assert all(x.is_deleted() for x in jax.tree.leaves(params))
  old = updater.zeros()
  new, _ = updater.accumulate(state.trained, state.frozen, old, ONE_TOKEN, None)
  assert all(x.is_deleted() for x in jax.tree.leaves(old))
  # Every micro-batch reads them, and a new state is made of the last sums.
  kept = jax.tree.leaves((state, new))
  assert not any(x.is_deleted() for x in kept)
