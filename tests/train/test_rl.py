# SPDX-License-Identifier: Apache-2.0
"""What an RL stage decides by itself, apart from its update steps."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from srl_jax import loading, sharding
from srl_jax.data.batching import Widths
from srl_jax.evaluate.estimates import Estimate
from srl_jax.processes.failures import RecurringError
from srl_jax.rewards import RewardError
from srl_jax.run import train_and_evaluate
from srl_jax.testing import tiny
from srl_jax.train import rl, rl_setup
from srl_jax.train.rl_config import RlConfig, RoundConfig
from srl_jax.train.rl_setup import RlSetup
from srl_jax.train.rl_update import RlUpdate
from srl_jax.train.sft import SftStage
from srl_jax.train.stage import check_finite
from srl_jax.types import make_branches
from srl_jax.update.groups import DynamicSamplingConfig, make_groups
from srl_jax.update.packing import PackShape


def test_a_stage_validates_in_batches_that_fit_a_part_of_a_round(
  runs, tmp_path, monkeypatch
):
  seen = []

  def evaluate(*_, trunks_per_batch, **__):
    seen.append(trunks_per_batch)
    return {"reward": Estimate(0.0, 0.0, 0.0)}

  monkeypatch.setattr(rl, "evaluate_steps", evaluate)
  config = runs.config(
    "srl",
    srl__trunks__points_per_trunk=1,
    srl__sampling__parts_per_round=2,
    mesh__data=1,
    mesh__fsdp=-1,
  )
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    rl.RlStage(run, "srl", config.srl).validate(None, 0)
  # Of 4 trunks in a part of a round, with 1 point each; here they have up to 3.
  assert seen == [1]


def test_a_part_of_a_round_that_does_not_divide_is_refused(runs, tmp_path):
  sampling = {"trunks_per_round": 16, "parts_per_round": 4}
  changes = {f"srl__sampling__{k}": v for k, v in sampling.items()}
  config = runs.config("srl", **changes)
  with pytest.raises(ValueError, match=r"parts_per_round=4 does not divide ov"):
    train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({}, ""),
    ({"passes": 2}, "passes=2 is above 1"),
    ({"trunks_per_micro_batch": 3}, "=3 does not divide trunks_per_round=8"),
    ({"parts_per_round": 2}, "parts_per_round=2 is above 1"),
    ({"refill": True}, "several rounds"),
  ],
)
def test_only_one_whole_round_can_be_one_program(changes, reason):
  sampling = RoundConfig(
    trunks_per_round=8, parts_per_round=changes.pop("parts_per_round", 1)
  )
  dynamic = DynamicSamplingConfig(refill=changes.pop("refill", False))
  config = RlConfig(
    sampling=sampling,
    dynamic_sampling=dynamic,
    **{"trunks_per_micro_batch": 4} | changes,
  )
  why = rl.why_not_fused(config, scorer=object())
  assert reason in why and bool(reason) == bool(why)


def test_what_a_stage_lacks_is_named(runs, tmp_path):
  """The split that is empty, and answers where solutions are judged."""
  with pytest.raises(
    ValueError, match=r"pretrain split .* c\.data\.pretrain_s"
  ):
    runs.run(tmp_path / "sft", "sft", sft__split="pretrain")
  config = runs.config("rlvr")
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    for split in ("train", "valid"):
      bare = [dataclasses.replace(x, answer=None) for x in getattr(run, split)]
      with pytest.raises(
        ValueError, match=f"none of the .* of the {split} split has a reference"
      ):
        rl.RlStage(
          dataclasses.replace(run, **{split: bare}), "rlvr", config.rlvr
        )


@pytest.mark.parametrize("gap", [1.1, np.inf, np.nan])
def test_a_sampler_that_may_differ_from_the_trainer_stops_the_run(gap):
  rl_setup.check_logp_gap("srl", RlConfig(), {"logp_gap_max": 1.0})
  with pytest.raises(RecurringError, match=f"disagree by {gap:.3g} nats"):
    rl_setup.check_logp_gap("srl", RlConfig(), {"logp_gap_max": gap})


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_a_gradient_that_overflows_stops_the_run(norm):
  check_finite({"grad_norm": 1e9})
  with pytest.raises(RecurringError, match=f"the gradient norm is {norm}: "):
    check_finite({"grad_norm": norm})


def test_a_batch_that_no_rounds_can_fill_is_refused(runs, tmp_path):
  # 2 rounds of 8 trunks with up to 3 branch points.
  changes = {"dynamic_sampling__max_rounds": 2, "groups_per_batch": 97}
  with pytest.raises(ValueError, match="groups_per_batch to 48 or less"):
    runs.run(tmp_path, "srl", **{f"srl__{k}": x for k, x in changes.items()})


def is_longer(action, target):
  return float(len(action) > len(target))


def test_a_reward_of_ones_own_is_tried_before_anything_is_measured(
  runs, tmp_path, capsys
):
  """On the expert's own text; json.dumps takes no target."""
  changes = {"reward_workers__count": 0, "srl__update_steps": 1}
  with pytest.raises(RewardError, match=r"'json:dumps' failed: it raised"):
    runs.run(tmp_path, "srl", srl__reward__function="json:dumps", **changes)
  assert not (tmp_path / "results.json").exists()
  half = "srl_jax.testing.experiment:half"
  config = runs.config("srl", srl__reward__function=half, **changes)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path / "run")
    rl.RlStage(run, "srl", config.srl).close()
  said = capsys.readouterr().out
  assert f"srl: {half} gives the expert's own text 0.500" in said
  # A verdict gets the whole solution, of which the target is only the answer.
  own = f"{__name__}:is_longer"
  config = runs.config("rlvr", rlvr__reward__function=own, **changes)
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path / "rlvr")
    rl.RlStage(run, "rlvr", config.rlvr).close()
  said = capsys.readouterr().out
  assert f"rlvr: {own} gives the expert's own text 1.000" in said


def test_targets_that_no_completion_has_room_for_are_named(
  runs, tmp_path, capsys
):
  config = runs.config("srl", srl__sampling__max_new_tokens=3)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    stage = rl.RlStage(run, "srl", config.srl)
  points = [point for trunk in stage.data.train for point in trunk.points]
  longer = sum(len(point.target_tokens) > 3 for point in points)
  assert 0 < longer < len(points)
  said = capsys.readouterr()
  line = f"{longer} of {len(points)} expert steps are longer"
  assert line in said.out + said.err


@pytest.mark.parametrize(("devices", "trunks"), [(1, 4), (8, 8)])
def test_micro_batches_are_raised_to_a_multiple_of_the_devices(
  runs, tmp_path, devices, trunks
):
  config = runs.config(
    "sft_srl",
    sft__trunks_per_micro_batch=4,
    srl__trunks_per_micro_batch=4,
    srl__dynamic_sampling__refill=False,
    srl__sampling__trunks_per_round=32,
    srl__sampling__parts_per_round=2,
    device_reward__on="device",
  )
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    sft = SftStage(run, "sft", config.sft)
    srl = rl.RlStage(run, "srl", config.srl)
  assert sft.config.trunks_per_micro_batch == trunks
  assert srl.config.trunks_per_micro_batch == trunks
  assert srl.description == "rewards on the device"
  fused = dataclasses.replace(config.srl, fuse=True)
  with (
    pytest.raises(
      ValueError, match=r"one program, as parts_per_round=2 .*srl\.fuse=False"
    ),
    jax.set_mesh(mesh),
  ):
    rl.RlStage(run, "srl", fused)


def test_slots_that_rounds_share_may_be_more_than_a_trunk_has_branches():
  assert RoundConfig(slots=16).slots_of(8) == 8
  assert RoundConfig(slots=4).slots_of(8) == 4
  assert RoundConfig(rows=2, slots=16).slots_of(8) == 16
  assert RoundConfig(rows=2).slots_of(8) == RoundConfig().slots_of(8) == 8


def update_shapes(trunk_width, points, **settings):
  """The shapes for 8 samples of at most 256 tokens."""
  config = RlConfig(trunks_per_micro_batch=4, **settings)
  run = types.SimpleNamespace(
    mesh=tiny.small_mesh(), rules=sharding.ShardingRules()
  )
  data = types.SimpleNamespace(widths=Widths(trunk_width, points, 1, 0))
  assert (config.sampling.samples, config.sampling.max_new_tokens) == (8, 256)
  return RlSetup(run, "srl", config, data, *[None] * 4).update_shapes


@pytest.mark.parametrize(("share", "lanes"), [(0.25, 8), (0.2, 7), (1.0, 32)])
def test_trunks_have_as_many_lanes_per_branch_as_asked(share, lanes):
  # Two trunks to a row, of 2 points with 8 samples each.
  found = update_shapes(9, 2, lanes_per_branch=share)
  assert found == (PackShape(2, 2, lanes),)


def test_rows_of_one_trunk_are_a_choice_where_trunks_are_long():
  found = update_shapes(1000, 2, lanes_per_branch=0.25)
  assert found == (PackShape(2, 2, 8), PackShape(2, 1, 8))


def test_otherwise_lanes_suit_trunks_points_and_the_filter():
  one, four = (update_shapes(1000, points)[0] for points in (1, 4))
  # A trunk of one point is in the update only if its group is kept.
  assert one == PackShape(2, 2, 8)
  assert four == PackShape(2, 2, 14)
  # Long trunks are dear to compute twice.
  assert update_shapes(9, 4)[0].lanes < four.lanes
  everything = DynamicSamplingConfig(enabled=False)
  [all_kept, *_] = update_shapes(1000, 4, dynamic_sampling=everything)
  assert 1.5 * four.lanes < all_kept.lanes < 64


def one_group(update_step):
  trunks = tiny.make_trunks([tiny.make_trunk([1, 2], (1, [3], 1))])
  branches = make_branches(
    tokens_NRC=np.ones((1, 2, 3), np.int32),
    stem_length_NR=np.ones((1, 2), np.int32),
    length_NR=np.full((1, 2), 3, np.int32),
    sampler_logp_NRC=np.zeros((1, 2, 3), np.float32),
    stopped_NR=np.ones((1, 2), bool),
  )
  return make_groups(
    trunks,
    branches,
    np.array([[[0.0, 1.0]]]),
    np.zeros((1, 1), np.int32),
    np.ones((1, 1), bool),
    update_step=update_step,
    round_index=0,
  )


def test_groups_that_waited_too_long_are_not_trained_on():
  pieces = types.SimpleNamespace(
    name="srl",
    config=RlConfig(groups_per_batch=2),
    update_shapes=[PackShape(rows=1, trunks=1, lanes=2)],
    run=types.SimpleNamespace(put=lambda x: x),
  )
  updates = RlUpdate(pieces)
  for born in (2, 3, 4, 8, 8):
    updates.pool.add(one_group(born))
  batch = updates.next_batch(None, update_step=8)
  # By default groups may wait for 4 update steps.
  assert batch.values["groups_expired"] == 2
  assert batch.values["stale_share"] == 0.5
  assert batch.values["groups_carried"] == 1
  is_fresh = [x.is_fresh_NBW.all() for x in batch.micro_batches]
  assert is_fresh == [False, True]


@pytest.mark.parametrize(
  ("sampling", "points", "valid_points", "devices", "trunks", "slots"),
  [
    # As a round: all branches of a trunk at a time, by the same program.
    ({"trunks_per_round": 8}, 4, 4, 1, 8, 0),
    ({"trunks_per_round": 8}, 4, 16, 1, 2, 0),
    ({"trunks_per_round": 8, "parts_per_round": 2}, 4, 4, 1, 4, 0),
    # Rows are rounded up to 8, of 160 branches each: a round has 8 of 32.
    ({"trunks_per_round": 8}, 4, 20, 8, 1, 32),
    ({"trunks_per_round": 64}, 1, 44, 64, 1, 8),
    # Slots of its own, if they fit.
    ({"trunks_per_round": 8, "slots": 4}, 4, 20, 8, 1, 4),
    ({"trunks_per_round": 8, "rows": 4, "slots": 16}, 4, 4, 1, 4, 16),
  ],
)
def test_a_validation_decodes_no_more_than_a_part_of_a_round(
  sampling, points, valid_points, devices, trunks, slots
):
  sampling = RoundConfig(samples=8, **sampling)
  got = rl.validation_batch(sampling, points, valid_points, devices)
  assert got == (trunks, slots)


def test_samples_that_a_fused_step_cannot_score_are_told_once(
  runs, tmp_path, capsys
):
  config = runs.config(
    "srl",
    device_reward__on="device",
    device_reward__max_text_bytes=8,
    srl__dynamic_sampling__refill=False,
    srl__fuse=True,
    srl__passes=1,
    srl__update_steps=2,
  )
  with runs.quickly():
    train_and_evaluate(config, tmp_path)
  said = capsys.readouterr().out
  assert said.count("are too long for the reward on the device, and their") == 1
  assert "set c.srl.fuse=False to have them scored" in said
  assert "srl/unscored" in (tmp_path / "metrics.csv").read_text()
