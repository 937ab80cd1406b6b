# SPDX-License-Identifier: Apache-2.0
"""The training loop: exact resume, compilation, selection, and its stops."""

import contextlib
import dataclasses
import io
import json
import os
import re
from unittest import mock

import jax
import numpy as np
import pytest
from flax import linen as nn

from srl_jax import initial_weights, loading, sharding
from srl_jax.rewards import RewardConfig
from srl_jax.testing import experiment
from srl_jax.train import loop as train
from srl_jax.train import rl as stage_rl
from srl_jax.train import rl_setup as stage_pieces
from srl_jax.train import sft as stage_sft
from srl_jax.train import stages as stages_lib
from srl_jax.update.groups import DynamicSamplingConfig
from srl_jax.update.grpo import grpo_loss


class PowerCutError(Exception):
  """Stands for whatever may end a process."""


def cut():
  raise PowerCutError


@pytest.fixture(scope="module")
def pieces(runs):
  """The run `whole` once more, interrupted wherever that may matter."""
  outcome = experiment.RunOutcome(runs.folder / "pieces")
  said = []
  loaded = mock.Mock(wraps=initial_weights.initial_params)
  with mock.patch.object(initial_weights, "initial_params", loaded):
    for stage, step, event, error in (
      # Saved at 8; goes on from there.
      ("sft", 9, cut, PowerCutError),
      # Not due for saving.
      ("sft", 10, experiment.terminate, train.Stopped),
      # The stage ends with this step.
      ("sft", 15, experiment.terminate, train.Stopped),
      ("srl", 3, cut, PowerCutError),
      ("srl", 2, experiment.terminate, train.Stopped),
    ):
      events = {(stage, step): event}
      with pytest.raises(error) as caught:
        runs.run(outcome.workdir, "sft_srl", events=events, outcome=outcome)
      said.append(str(caught.value))
    runs.run(outcome.workdir, "sft_srl", outcome=outcome)
  assert loaded.call_count == 1, "checkpoints take the weights' place"
  return outcome, said


def assert_trees_equal(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_run_that_is_interrupted_carries_groups_over(whole):
  # Without this the tests below would compare empty pools.
  _, pool, _ = whole.saved["srl", 2]
  assert len(pool.born_P) > 0
  rows = whole.rows()
  assert max(row.get("srl/rounds", 0) for row in rows) > 1
  assert any(0 < row.get("srl/stale_share", 0) < 1 for row in rows)


def test_stopped_anywhere_a_run_ends_with_the_same_bits(whole, pieces):
  pieces, _ = pieces
  assert len(whole.saved) == 8 + 3
  assert whole.saved.keys() <= pieces.saved.keys()
  for key, (state, pool, meta) in whole.saved.items():
    other_state, other_pool, other_meta = pieces.saved[key]
    assert_trees_equal(state, other_state)
    assert_trees_equal(pool, other_pool)
    assert meta == other_meta
  weights = [
    (x.workdir / "model/model.safetensors").read_bytes()
    for x in (whole, pieces)
  ]
  assert weights[0] == weights[1]


def test_stopped_anywhere_a_run_writes_the_same_metrics(whole, pieces):
  pieces, _ = pieces
  assert len(whole.rows()) == 16 + 2 + 6 + 6 + 3
  assert pieces.rows() == whole.rows()
  assert pieces.rollouts() == whole.rollouts()
  assert pieces.results == whole.results
  assert list(whole.results) == ["before", "after sft", "after srl"]


def test_sigterm_saves_and_says_how_to_go_on(pieces):
  pieces, said = pieces
  # 11 and 3 are odd: checkpoints are due every two steps.
  assert {("sft", 11), ("srl", 3)} <= pieces.saved.keys()
  stages = f"{pieces.workdir}/stages/"
  rest = "Run the same command again to go on from there."
  assert said[1] == (
    f"sft: asked to stop; update step 11 of 16 is saved in {stages}0_sft. "
    + rest
  )
  # It is validated when it goes on.
  assert said[2] == said[1].replace("step 11", "step 16")
  assert said[4].startswith("srl: asked to stop; update step 3 of 6 is saved")


def test_nothing_compiles_after_the_second_step(whole):
  sft, rl = whole.compiled["sft"], whole.compiled["srl"]
  # SFT validates for the first time at step 8; the second step of its second
  # task is step 3.
  assert sft[4] == sft[7] < sft[8] == sft[15]
  assert rl[0] < rl[2] == rl[5]
  lines = (whole.workdir / "metrics.jsonl").read_text()
  programs = re.findall(r'"srl/programs": ([\d.]+)', lines)
  # Rollout, its accumulation and its optimizer step; three evaluations.
  assert len(programs) == 6
  assert len(set(programs[1:])) == 1


def test_a_second_pass_over_a_batch_is_not_taken_for_a_fresh_one(whole):
  # After a pass at this learning rate the log-probs differ by tenths; fresh
  # ones differ by rounding, of which float32 leaves 1e-6.
  rows = [row for row in whole.rows() if "srl/loss" in row]
  assert max(row["srl/ratio_max"] for row in rows) > 1.1
  assert max(row["srl/logp_gap_max"] for row in rows) < 1e-4


def test_the_reference_is_the_policy_at_the_start_of_the_stage(whole):
  # Two passes at this learning rate move the policy away from it, and the
  # first step's mean is over a pass at distance 0 and one that is not.
  kl = [r["srl/kl_reference"] for r in whole.rows() if "srl/loss" in r]
  assert 0 < kl[0] < max(kl)


@contextlib.contextmanager
def started(runs, whole, workdir, preset, **changes):
  """A run up to where its stages are trained, with the weights of `whole`."""
  config = runs.config(
    preset,
    weights=str(whole.workdir / "model"),
    tokenizer__path=str(whole.workdir / "tokenizer.model"),
    **changes,
  )
  with runs.quickly():
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      run = loading.load_run(config, mesh, workdir)
      configs = {name: getattr(config, name) for name in config.stages}
      yield run, configs, initial_weights.initial_params(run)


def train_all(run, configs, params, workdir):
  """Trains the stages; returns the parameters after each."""
  after = {}
  stages = stages_lib.make_stages(run, configs, workdir)
  for stage in stages.values():
    stage.prepare(params)
  stages_lib.train_stages(
    run,
    configs,
    stages,
    params,
    workdir,
    lambda name, params: after.update({name: jax.device_get(params)}),
  )
  return after


@pytest.fixture(scope="module")
def validated(runs, whole):
  """A stage with a validation after each step: parameters, and what it says."""
  # The last is as good as the best and must not replace it, nor may nan.
  values, seen = iter([float("nan"), 3.0, float("nan"), 3.0]), []

  def validate(self, params, update_step):
    del update_step
    seen.append(jax.device_get(params))
    value = next(values)
    return value, {"valid_score": value, "valid_score_step_1": -value}

  workdir = runs.folder / "validated"
  changes = {"sft__update_steps": 4, "sft__validate_every": 1}
  with (
    pytest.MonkeyPatch.context() as patch,
    contextlib.redirect_stdout(io.StringIO()) as said,
    started(runs, whole, workdir, "sft", **changes) as (run, configs, params),
  ):
    patch.setattr(stage_sft.SftStage, "validate", validate)
    after = train_all(run, configs, params, workdir)
  return after["sft"], seen, said.getvalue().splitlines()


def test_a_stage_returns_the_best_parameters_not_the_last(validated):
  after, seen, _ = validated
  assert_trees_equal(after, seen[1])
  assert not np.array_equal(seen[1]["embedding"], seen[3]["embedding"])


def test_the_line_of_a_validation_leaves_out_the_values_by_step(validated):
  _, _, said = validated
  # There are as many of those as a trajectory has steps.
  assert "sft 2/4  valid score 3.0000" in said
  assert "warning: sft: validation after step 1 gave nan" in said


def test_a_stage_that_is_done_gives_its_best_parameters_again(whole, runs):
  # The interrupted run began srl with what its own sft stage had returned.
  with started(runs, whole, whole.workdir, "sft_srl") as (run, configs, params):
    assert not stages_lib.make_stages(run, configs, whole.workdir)
    after = train_all(run, configs, params, whole.workdir)
  final = (whole.workdir / "model/model.safetensors").read_bytes()
  assert after["srl"]["embedding"].tobytes() in final
  assert after["sft"]["embedding"].tobytes() not in final


def test_rlvr_learns_from_answers_alone(runs, whole, tmp_path):
  changes = {"rlvr__update_steps": 1}
  with started(runs, whole, tmp_path, "rlvr", **changes) as (
    run,
    configs,
    params,
  ):
    train_all(run, configs, params, tmp_path)
  [row, _] = experiment.metric_rows(tmp_path)
  # Answers are right or wrong, and a whole solution has one branch point.
  assert 0 < row["rlvr/reward"] < 1
  assert "rlvr/reward_step_2" not in row
  assert row["rlvr/groups_sampled"] == 8 * row["rlvr/rounds"]


def test_a_sampler_that_differs_from_the_trainer_stops_the_run(
  runs, whole, tmp_path, monkeypatch
):

  def at_another_temperature(policy, config, temperature):
    return grpo_loss(policy, config, 2 * temperature)

  monkeypatch.setattr(stage_pieces, "grpo_loss", at_another_temperature)
  changes = {"srl__max_logp_gap": 0.1, "checkpoint__every_update_steps": 1}
  with (
    started(runs, whole, tmp_path, "srl", **changes) as (run, configs, params),
    pytest.raises(RuntimeError, match="sampler and trainer disagree by"),
  ):
    train_all(run, configs, params, tmp_path)
  # What they computed is not kept.
  assert not os.listdir(tmp_path / "stages" / "0_srl" / "steps")


def rl_updates(run, configs, params, **changes):
  config = dataclasses.replace(configs["srl"], **changes)
  stage = stage_rl.RlStage(run, "srl", config)
  stage.prepare(params)
  return stage.updates


def test_rewards_that_tell_nothing_end_in_a_clear_error(runs, whole, tmp_path):
  limit = DynamicSamplingConfig(max_rounds=2)
  half = RewardConfig(
    function="srl_jax.testing.experiment:half", broken_format_reward=0.5
  )
  with started(runs, whole, tmp_path, "srl") as (run, configs, params):
    equal = rl_updates(
      run, configs, params, dynamic_sampling=limit, reward=half
    )
    with pytest.raises(RuntimeError) as caught:
      equal.next_batch(params, 0)
    assert re.match(
      r"srl: after 2 rounds of sampling only 0 of 12 groups have rewards that "
      r"differ \(kept 0.0% of \d+; .* mean reward 0.500\)",
      str(caught.value),
    )
    assert "or raise c.srl.dynamic_sampling.max_rounds" in str(caught.value)
    data = equal.setup.data.batches.get_state()
    assert data["grain"]["next_index"] == 2, "two batches were sampled"

    random = nn.unbox(run.policy.init(jax.random.key(0)))
    updates = rl_updates(run, configs, params, dynamic_sampling=limit)
    with pytest.raises(RuntimeError) as caught:
      updates.next_batch(random, 0)
    assert "100.0% of the samples break the format" in str(caught.value)
    assert "mostly: not_stopped" in str(caught.value)


def test_half_a_batch_is_trained_on(runs, whole, tmp_path, capsys):
  with started(runs, whole, tmp_path, "srl") as (run, configs, params):

    def branches(groups, refill=True):
      once = DynamicSamplingConfig(max_rounds=1, refill=refill)
      changes = {"dynamic_sampling": once, "groups_per_batch": groups}
      batch = rl_updates(run, configs, params, **changes).next_batch(params, 0)
      return sum(int(x.branches_N.sum()) for x in batch.micro_batches)

    found = branches(12, refill=False)
    kept = found // configs["srl"].sampling.samples
    assert kept > 1 and "warning" not in capsys.readouterr().out
    assert branches(2 * kept) == found
    said = capsys.readouterr().out
    assert said.startswith("warning: this update step trains on fewer groups. ")
    assert f"sampling only {kept} of {2 * kept} groups have rewards" in said
    with pytest.raises(RuntimeError, match=f"only {kept} of {2 * kept + 1} "):
      branches(2 * kept + 1)


def test_broken_formats_are_warned_of(runs, whole, tmp_path, capsys):
  keep_all = DynamicSamplingConfig(enabled=False)
  with started(runs, whole, tmp_path, "srl") as (run, configs, params):
    updates = rl_updates(run, configs, params, dynamic_sampling=keep_all)
    assert updates.next_batch(params, 4).values["differing_share"] > 0
    assert "warning" not in capsys.readouterr().out
    state = json.loads(json.dumps(updates.get_state()))
    random = nn.unbox(run.policy.init(jax.random.key(0)))
    updates = rl_updates(run, configs, params, dynamic_sampling=keep_all)
    values = updates.next_batch(random, 4).values
    # All rewards are -1.
    assert values["kept_share"] == 1 and values["differing_share"] == 0
    updates.set_state(state)
    updates.next_batch(random, 5)
  line, resumed = capsys.readouterr().out.splitlines()
  assert line.startswith(
    "warning: 100% of the samples of srl update step 5 break the format; most "
    "often: not_stopped; raise c.srl.sampling.max_new_tokens"
  )
  # Formats held before the run was stopped.
  assert "training has broken the model" in resumed
