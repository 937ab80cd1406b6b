# SPDX-License-Identifier: Apache-2.0
"""The loop of a stage: the order of updates, checkpoints and validations."""

import shutil
import types

import jax
import numpy as np
import optax
import pytest

from srl_jax import sharding
from srl_jax.testing import tiny
from srl_jax.train import loop, update_log
from srl_jax.update.updater import Updater


class FakeStage:
  """Takes update steps of nothing, and notes when."""

  name, description, columns, uses_reference = "srl", "", (), False

  def __init__(self, config, params, seen):
    self.config, self.seen = config, seen
    schedule = optax.constant_schedule(0.0)
    self.updater = Updater(None, optax.sgd(0.0), schedule, params, MESH)

  def take_update(self, state, update_step, reference):
    del reference
    self.seen.append(f"take {update_step}")
    known = {"tokens_trained": 1.0}
    return state, update_log.Dispatched(known, [[update_step]])

  def validate(self, params, update_step):
    self.seen.append(f"validate {update_step}")
    return 0.0, {}

  def check(self, values):
    pass

  def compiled_count(self):
    return 0

  def get_state(self):
    return {}, {}

  def set_state(self, data, pool):
    pass

  def close(self):
    pass


MESH = tiny.small_mesh()


class FakeMeasures:
  """Measures after every second update step, and notes when."""

  def __init__(self, seen):
    self.seen = seen

  def is_due(self, done):
    return done % 2 == 0

  def measure(self, stage, done, params):
    self.seen.append(f"during {done - 1}")
    return {}


def train(
  runs, workdir, seen, is_stopping=lambda: False, measures=None, **changes
):
  """Trains four update steps of nothing."""
  settings = {
    "srl__update_steps": 4,
    "srl__validate_every": 0,
    "checkpoint__every_update_steps": 100,
  }
  config = runs.config("srl", **settings | changes)
  run = types.SimpleNamespace(log_every=1, recorder=None, trackers=None)
  run.checkpoint, run.profile = config.checkpoint, config.profile
  params = {"w": jax.device_put(np.zeros(2), sharding.replicated(MESH))}
  loop.train_stage(
    run,
    FakeStage(config.srl, params, seen),
    params,
    workdir / "stages" / "0_srl",
    0,
    is_stopping,
    measures,
  )


@pytest.fixture
def reads(monkeypatch):
  """What is read of the devices, in that order."""
  found = []

  def read(metrics):
    found.append(f"read {metrics[0]}")
    return {}

  monkeypatch.setattr(update_log, "reduce_metrics", read)
  return found


def test_the_metrics_of_a_step_are_read_while_the_next_one_runs(
  runs, tmp_path, reads
):
  seen = reads
  train(runs, tmp_path, seen)
  # Two steps are queued before any is waited for; the last has no next one.
  expected = (
    "take 0,take 1,read 0,take 2,read 1,take 3,read 2,read 3,validate 3"
  )
  assert seen == expected.split(",")


def test_asked_to_stop_a_stage_saves_at_once_and_validates_later(
  runs, tmp_path, reads
):
  seen = []
  with pytest.raises(loop.Stopped, match="update step 2 of 4 is saved"):
    is_asked = lambda: "take 1" in seen  # noqa: E731
    train(runs, tmp_path, seen, is_asked, srl__validate_every=2)
  assert seen == ["take 0", "take 1"]
  train(runs, tmp_path, seen, srl__validate_every=2)
  rest = ["validate 1", "take 2", "take 3", "validate 3"]
  assert seen == ["take 0", "take 1", *rest]


def test_a_checkpoint_is_saved_before_its_validation(runs, tmp_path, reads):
  seen = []

  class CutError(Exception):
    pass

  def validate(self, params, update_step):
    raise CutError

  due = {"srl__validate_every": 2, "checkpoint__every_update_steps": 2}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(FakeStage, "validate", validate)
    with pytest.raises(CutError):
      train(runs, tmp_path, seen, **due)
  seen.clear()
  train(runs, tmp_path, seen, **due)
  assert seen == ["validate 1", "take 2", "take 3", "validate 3"]


@pytest.mark.parametrize("is_early", [True, False])
def test_a_stage_killed_before_its_best_was_whole_is_validated_again(
  runs, tmp_path, monkeypatch, reads, is_early
):
  seen = []

  def take_update(self, state, update_step, reference):
    raise loop.NothingLeftError("no group is left")

  train(runs, tmp_path, seen, srl__update_steps=3)
  if is_early:
    monkeypatch.setattr(FakeStage, "take_update", take_update)
    train(runs, tmp_path, seen)
  seen.clear()
  train(runs, tmp_path, seen, srl__update_steps=4 if is_early else 3)
  assert seen == []
  shutil.rmtree(tmp_path / "stages" / "0_srl" / "best")
  train(runs, tmp_path, seen, srl__update_steps=4 if is_early else 3)
  assert seen == ["validate 2"]


def test_a_stage_that_ends_early_is_validated_whatever_was_measured(
  runs, tmp_path, monkeypatch, reads
):
  seen = []
  take_update = FakeStage.take_update

  def take_two(self, state, update_step, reference):
    if update_step == 2:
      raise loop.NothingLeftError("no group is left")
    return take_update(self, state, update_step, reference)

  monkeypatch.setattr(FakeStage, "take_update", take_two)
  train(runs, tmp_path, seen, measures=FakeMeasures(seen))
  assert seen == ["take 0", "take 1", "during 1", "validate 1"]
  train(runs, tmp_path, seen, measures=FakeMeasures(seen))
  assert len(seen) == 4


def test_what_was_measured_is_not_measured_again_by_later_attempts(
  runs, tmp_path, monkeypatch, reads
):
  seen = []
  take_update = FakeStage.take_update
  due = {
    "srl__update_steps": 6,
    "srl__validate_every": 3,
    "checkpoint__every_update_steps": 1,
  }

  class CutError(Exception):
    pass

  def cut_at(last):
    def take(self, state, update_step, reference):
      if update_step == last:
        raise CutError
      return take_update(self, state, update_step, reference)

    return take

  # The second attempt only has something to measure besides validation.
  for last in (3, 4, 4, 4):
    monkeypatch.setattr(FakeStage, "take_update", cut_at(last))
    with pytest.raises(CutError):
      train(runs, tmp_path, seen, measures=FakeMeasures(seen), **due)
  rows = ("take 0,take 1,during 1,take 2,validate 2", "take 3,during 3")
  assert seen == ",".join(rows).split(",")
