# SPDX-License-Identifier: Apache-2.0
"""The batches of supervised fine-tuning."""

import dataclasses

import jax
import pytest

from srl_jax import loading, sharding
from srl_jax.data.trunks import ExpertTrunkConfig
from srl_jax.train.sft import SftStage


def test_batches_have_no_more_points_than_any_trajectory_has(runs, tmp_path):
  config = runs.config("sft", sft__trunks__points_per_trunk=2)
  mesh = sharding.make_mesh(config.mesh)
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    stage = SftStage(run, "sft", config.sft)
    batches = [stage.next_batch(step).micro_batches for step in range(2)]
  trunks = config.sft.trunks_per_batch
  branches = [sum(int(x.branches_N.sum()) for x in parts) for parts in batches]
  # Steps by two, or one where a trajectory has no more; then whole solutions.
  assert trunks < branches[0] <= 2 * trunks
  assert branches[1] == trunks


def test_a_batch_need_not_be_whole_micro_batches(runs, tmp_path):
  # 4 trunks are raised to one for each of 8 devices.
  config = runs.config(
    "sft", sft__trunks_per_batch=12, sft__trunks_per_micro_batch=4
  )
  mesh = sharding.make_mesh(config.mesh)
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    stage = SftStage(run, "sft", config.sft)
    steps, solutions = (stage.next_batch(i).micro_batches for i in range(2))
  assert stage.config.trunks_per_micro_batch == 8
  assert sum(int(x.branches_N.sum()) for x in solutions) == 12
  assert sum(int(x.branches_N.sum()) for x in steps) > 12


def test_each_of_the_expert_s_branches_has_a_trunk_and_a_lane(runs, tmp_path):
  """Where each has a trunk of its own, long or short."""
  config = runs.config(
    "sft",
    sft__trunks__context_turns=1,
    srl__trunks__context_turns=1,
    sft__alternate_solve=False,
    sft__trunks_per_micro_batch=16,
  )
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    longest = run.train[0].steps[0]
    longer = dataclasses.replace(longest, text=longest.text * 9)
    steps = (longer, *run.train[0].steps[1:])
    first = dataclasses.replace(run.train[0], steps=steps)
    run = dataclasses.replace(run, train=[first, *run.train[1:]])
    stage = SftStage(run, "sft", config.sft)
    parts = list(stage.next_batch(0).micro_batches)
  trunks = config.sft.trunks_per_batch
  assert sum(int(x.branches_N.sum()) for x in parts) == trunks
  assert [x.trunk_length_NU.shape for x in parts] == [(trunks // 2, 2)]
  assert all((x.trunk_length_NU > 0).all() for x in parts)


def test_a_stage_that_alternated_goes_on_only_as_one_that_does(runs, tmp_path):
  mesh = sharding.make_mesh(runs.config("sft").mesh)
  with runs.quickly(), jax.set_mesh(mesh):

    def stage(alternate_solve):
      config = runs.config("sft", sft__alternate_solve=alternate_solve)
      run = loading.load_run(config, mesh, tmp_path)
      return SftStage(run, "sft", config.sft)

    saved, _ = stage(True).get_state()
    stage(True).set_state(saved, {})
    with pytest.raises(
      ValueError, match=r"had 2 .* alternate_solve=True as it"
    ):
      stage(False).set_state(saved, {})


def test_solutions_that_lack_a_thought_are_counted(runs, tmp_path, capsys):
  config = runs.config("sft", sft__alternate_solve=False)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])

  def said(include_thoughts, bare):
    """What the stage says if so many trajectories have no thought at all."""
    with runs.quickly(), jax.set_mesh(mesh):
      run = loading.load_run(config, mesh, tmp_path)
      without = [
        dataclasses.replace(
          x, steps=tuple(dataclasses.replace(s, thought=None) for s in x.steps)
        )
        for x in run.train[:bare]
      ]
      run = dataclasses.replace(run, train=[*without, *run.train[bare:]])
      trunks = ExpertTrunkConfig(
        task="solve", include_thoughts=include_thoughts
      )
      capsys.readouterr()
      SftStage(run, "sft", dataclasses.replace(config.sft, trunks=trunks))
    return capsys.readouterr().out

  assert said(True, 0) == said(False, 2) == ""
  out = said(True, 2)
  assert out.startswith("warning: sft: 2 of ")
  assert "solutions have no thought, though c.sft.trunks.include_thoug" in out


def test_steps_and_solutions_have_metrics_of_their_own(whole):
  rows = [x for x in whole.rows() if "sft/tokens_trained" in x]
  names = ("loss", "accuracy", "confident_share")
  for number, row in enumerate(rows):
    mine, others = ("solve_", "") if number % 2 else ("", "solve_")
    assert all(f"sft/{mine}{name}" in row for name in names)
    assert not any(f"sft/{others}{name}" in row for name in names)
  for row in (x for x in whole.rows() if "sft/validation_loss" in x):
    pooled, *of_tasks = (
      row[f"sft/validation_{name}"]
      for name in ("loss", "step_loss", "solve_loss")
    )
    assert min(of_tasks) < pooled < max(of_tasks)
