# SPDX-License-Identifier: Apache-2.0
"""The benchmark of saving saves what it says, and leaves nothing behind."""

import jax
import pytest

from benchmarks import saving
from srl_jax.checkpoint import Checkpointer


def test_the_bytes_are_those_asked_for_and_nothing_is_left(tmp_path):
  state = saving.make_state(2 * 2**24)
  assert len(state) == 2
  assert sum(x.nbytes for x in jax.tree.leaves(state)) == 2 * 2**24
  measured = saving.measure(str(tmp_path), state)
  assert measured["bytes"] == 2 * 2**24
  assert 0 < measured["copied_s"] < measured["saved_s"]
  assert not list(tmp_path.iterdir())
  assert saving.line("disk", measured).split()[:2] == ["disk", "34"]


def test_a_checkpoint_that_differs_is_no_result(tmp_path, monkeypatch):
  restore = Checkpointer.restore

  def changed(self, step, wanted):
    state, pool, meta = restore(self, step, wanted)
    return {name: x + 1 for name, x in state.items()}, pool, meta

  monkeypatch.setattr(Checkpointer, "restore", changed)
  with pytest.raises(AssertionError, match="Mismatched elements"):
    saving.measure(str(tmp_path), saving.make_state(2**20))
