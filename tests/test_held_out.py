# SPDX-License-Identifier: Apache-2.0
"""The held-out problems of a run are read as they were written."""

import re

import pytest

from srl_jax import held_out
from srl_jax.storage.workdir import RefusedError
from srl_jax.trajectory import Step, Trajectory


@pytest.mark.parametrize(
  "step",
  [
    Step("<think>a</think>b"),
    Step("a", title="1. Add"),
    Step("a", title="**Add**\nmore"),
    Step("a", observation="", thought="<think>b"),
    Step("", title="A", is_target=False),
  ],
)
def test_what_data_may_no_longer_hold_is_read_from_runs_that_had_it(
  step, tmp_path
):
  before = {
    "valid": [Trajectory("v", "math", "p", (step,), "7", {"source": "x"})],
    "test": [Trajectory("t", "general", "q \u2028", (Step("x"), step))],
  }
  held_out.write(before, tmp_path)
  assert held_out.read(tmp_path) == before


def test_other_data_may_be_those_that_another_version_read_otherwise(tmp_path):
  (tmp_path / "results.json").write_text("{}")
  splits = {
    "train": [],
    "valid": [],
    "test": [Trajectory("t", "math", "p", (Step("x", title="**A**"),))],
  }
  held_out.check(splits, (), tmp_path)
  splits["test"] = [Trajectory("t", "math", "p", (Step("x", title="A"),))]
  version = re.escape(str(tmp_path / "versions.json"))
  words = f"test split changed .* if they are the same, .* see {version}"
  with pytest.raises(RefusedError, match=words):
    held_out.check(splits, (), tmp_path)
