# SPDX-License-Identifier: Apache-2.0
"""Training keeps rollouts that say what it saw, and its metrics agree."""

import collections

import numpy as np
import pytest

from srl_jax.rewards import difflib_ratio, format
from srl_jax.rollout.record import list_files, read_file


@pytest.fixture(scope="module")
def kept(whole):
  """{(update step, split): rows} of the stage "srl" of a run."""
  return {
    (file.update_step, file.split): read_file(file.path)
    for file in list_files(whole.workdir / "rollouts")
    if file.stage == "srl"
  }


def test_rl_keeps_rollouts_of_training_and_of_each_validation(kept, whole):
  # Six update steps with a validation after each; training every five.
  trained = {(0, "train"), (5, "train")}
  assert kept.keys() == trained | {(i, "valid") for i in range(6)}
  stages = {x.stage for x in list_files(whole.workdir / "rollouts")}
  assert stages == {"srl"}  # SFT samples nothing.


def test_kept_rewards_are_those_of_the_kept_texts(kept):
  broken = 0
  for row in (row for rows in kept.values() for row in rows):
    parsed = format.split(row["text"], row["is_stopped"])
    assert row["failure"] == parsed.failure
    broken += bool(parsed.failure)
    reward = -1.0
    if not parsed.failure:
      reward = difflib_ratio(parsed.action, row["target"].strip())
    # Rewards are float32.
    assert row["reward"] == pytest.approx(reward, abs=1e-6)
  assert broken


def groups(rows):
  found = collections.defaultdict(list)
  for row in rows:
    found[row["trajectory"], row["step"]].append(row)
  return found


def test_all_branches_of_all_branch_points_are_kept(kept):
  for rows in kept.values():
    # Eight trajectories: all of a round, and all that are validated on.
    assert len({row["trajectory"] for row in rows}) == 8
    by_point = groups(rows)
    for (_, step), of_point in by_point.items():
      assert [row["sample"] for row in of_point] == [0, 1, 2, 3]
      assert of_point[0]["steps"][step]["text"] in of_point[0]["target"]
    points = collections.Counter(name for name, _ in by_point)
    for row in rows:
      assert points[row["trajectory"]] == len(row["steps"])


def test_a_group_is_kept_if_its_rewards_differ(kept):
  seen = set()
  for (_, split), rows in kept.items():
    for of_point in groups(rows).values():
      # The limit is 0.001, and similarities of these texts are coarse.
      differ = np.std([row["reward"] for row in of_point]) > 0.01
      expected = bool(differ) if split == "train" else None
      assert {row["is_kept"] for row in of_point} == {expected}
      seen.add(expected)
  assert seen == {True, False, None}


def test_the_same_trajectories_are_kept_at_each_validation(kept, whole):
  names = [
    sorted({row["trajectory"] for row in rows})
    for (_, split), rows in kept.items()
    if split == "valid"
  ]
  assert all(x == names[0] for x in names)
  # All eight that are validated on are kept, so their means are the metric's.
  measured = {
    row["update_step"] - 16: row["srl/validation_reward"]
    for row in whole.rows()
    if "srl/validation_reward" in row
  }
  for (update_step, split), rows in kept.items():
    if split == "valid":
      mean = np.mean([row["reward"] for row in rows])
      assert mean == pytest.approx(measured[update_step], abs=1e-6)
