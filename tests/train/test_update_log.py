# SPDX-License-Identifier: Apache-2.0
"""Update steps last from the end of the one before to their own."""

import json
import time

import pytest

from srl_jax.train.stage import Dispatched
from srl_jax.train.update_log import metrics_of


@pytest.mark.parametrize(
  ("start_s", "last_end_s", "seconds"),
  [
    (10.0, 0.0, 5.0),  # the first
    (10.0, 12.0, 3.0),  # began while the one before ran
    (10.0, 9.0, 5.0),  # began after a validation
  ],
)
def test_no_second_counts_twice(start_s, last_end_s, seconds):
  values = {"tokens_sampled": 30.0, "rollout_s": 2.0}
  found = metrics_of(Dispatched(values, []), start_s, last_end_s, 15.0)
  assert found["update_step_s"] == seconds
  assert found["tokens_per_s"] == 30 / seconds
  assert found["rollout_tokens_per_s"] == 15


def test_the_row_before_an_error_is_not_lost(runs, tmp_path):
  def fail():
    raise ValueError("no data any more")

  with pytest.raises(ValueError, match="no data any more"):
    runs.run(
      tmp_path,
      "sft",
      sft__validate_every=0,
      data__test_size=0,
      events={("sft", 3): fail},
    )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert sum("sft/tokens_trained" in line for line in lines) == 3


@pytest.mark.parametrize("stage", ["sft", "srl"])
def test_steps_take_as_long_as_the_clock_says(runs, tmp_path, stage):
  begin_s = {}

  def note(step):
    return lambda: begin_s.setdefault(step, time.monotonic())

  more = {f"{stage}__update_steps": 10, f"{stage}__validate_every": 0}
  more["data__test_size"] = 0
  if stage == "srl":
    more["srl__dynamic_sampling__enabled"] = False
  outcome = runs.run(
    tmp_path,
    stage,
    checkpoint__every_update_steps=10,
    events={(stage, step): note(step) for step in (3, 9)},
    **more,
  )
  lines = (outcome.workdir / "metrics.jsonl").read_text().splitlines()
  name = f"{stage}/update_step_s"
  seconds = [row[name] for row in map(json.loads, lines) if name in row]
  assert len(seconds) == 10
  assert min(seconds) > 0
  # Step 7 is waited for before step 9 begins.
  assert sum(seconds[3:8]) < begin_s[9] - begin_s[3] + 1e-3
