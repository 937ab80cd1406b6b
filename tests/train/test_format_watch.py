# SPDX-License-Identifier: Apache-2.0
"""What is said of an update step whose samples teach too little."""

import numpy as np

from srl_jax.rewards import FAILURES
from srl_jax.train.format_watch import FormatWatch
from srl_jax.train.rl_config import RlConfig
from srl_jax.types import Scores


def seen(**counts):
  """Scores of a round with so many samples of each failure, and 9 whole."""
  failures = np.repeat([0, *map(FAILURES.index, counts)], [9, *counts.values()])
  nothing = np.zeros_like(failures)
  return Scores(*[nothing] * 4, failure_NKG=failures[None, None])


def starved(formats, broken):
  values = {"kept_share": 0.0, "groups_sampled": 64.0, "reward": 0.998}
  return formats.starved(values | {"format_failure": broken}, 0)


def test_data_that_are_mastered_are_not_put_down_to_formats():
  formats = FormatWatch("srl", RlConfig())
  formats.saw(seen())
  formats.end_update_step(0, 0.0)
  formats.saw(seen())
  said = starved(formats, 0.0)
  assert (
    "0.0% of the samples break the format; mean reward 0.998). If a" in said
  )
  assert "broken the model" not in said and "If formats" not in said


def test_only_formats_that_break_more_often_than_before_accuse_training():
  formats = FormatWatch("srl", RlConfig())
  formats.end_update_step(0, 0.2)
  formats.saw(seen(not_stopped=1))
  assert "warm the model up with an sft stage" in starved(formats, 0.4)
  said = starved(formats, 0.6)
  assert "only 20.0% did, so training has broken the model" in said


def test_the_most_frequent_failure_is_that_of_all_rounds_of_the_update_step():
  formats = FormatWatch("srl", RlConfig())
  formats.saw(seen(not_stopped=99))
  formats.end_update_step(0, 0.5)
  formats.saw(seen(no_thought=5))
  formats.saw(seen(no_thought=1, empty_action=3))
  assert "mostly: no_thought" in starved(formats, 0.5)
