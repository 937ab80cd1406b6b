# SPDX-License-Identifier: Apache-2.0
"""Where a user's reward function runs, and how its end is reported."""

import os

import pytest

from srl_jax.rewards import (
  Completion,
  RewardConfig,
  RewardError,
  Scorer,
  WorkersConfig,
)

USER = "reward_functions_for_tests:"


def score(config, workers=WorkersConfig()):
  with Scorer(config, workers) as scorer:
    return scorer.score([Completion("<think>t</think>a", True)], ["a"])


def test_a_users_function_runs_in_workers_unless_told_otherwise():
  config = RewardConfig(function=USER + "process_id")
  [scored] = score(config)
  assert scored.reward != os.getpid()
  [scored] = score(config, WorkersConfig(0))
  assert scored.reward == os.getpid()
  assert WorkersConfig().processes(USER + "x") == min(4, os.cpu_count())
  assert WorkersConfig().processes("difflib") == 0


def test_a_worker_that_hangs_up_is_reported_with_its_own_status():
  config = RewardConfig(function=USER + "dies_slowly")
  with pytest.raises(RewardError, match="exit code 7 on"):
    score(config, WorkersConfig(1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_whose_service_is_away_may_be_tried_again(workers):
  config = RewardConfig(function=USER + "asks_a_service")
  with pytest.raises(RewardError, match="nobody answers") as error:
    score(config, WorkersConfig(workers))
  assert error.value.passes


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ((-2,), "count=-2; set it to -1 or"),
    ((1, 0.0), "timeout_s=0.0; set it"),
  ],
)
def test_impossible_workers_are_refused(values, message):
  with pytest.raises(ValueError, match=message):
    WorkersConfig(*values)
