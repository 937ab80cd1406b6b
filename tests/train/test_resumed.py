# SPDX-License-Identifier: Apache-2.0
"""What a stage has when it resumes, and what it leaves of a killed attempt."""

import os
import threading
import types

import jax
import jax.numpy as jnp
import pytest

from srl_jax.checkpoint import CheckpointConfig, Checkpointer, sums
from srl_jax.train import loop


def resume(params, uses_reference):
  """Resumes a stage; returns its state, its reference, and what was freed."""
  freed = []

  def restore(step, wanted):
    freed.extend(x.is_deleted() for x in jax.tree.leaves(params))
    assert (step, wanted) == (3, "abstract")
    saved = {"params": {"w": jnp.ones(2)}, "opt_state": "moments"}
    return saved, "pool", {"data": "position"}

  abstract = types.SimpleNamespace(to_save=lambda: "abstract")
  updater = types.SimpleNamespace(abstract_state=lambda: abstract)
  stage = types.SimpleNamespace(uses_reference=uses_reference, updater=updater)
  saver = types.SimpleNamespace(restore=restore)
  state, reference, data = loop._resumed(stage, params, saver, 3)
  assert data == ("position", "pool")
  return state, reference, freed


def test_what_it_started_from_is_freed_before_the_checkpoint_comes():
  state, reference, freed = resume({"w": jnp.zeros(2)}, False)
  assert freed == [True] and reference is None
  assert state.params["w"].tolist() == [1, 1]
  assert state.opt_state == "moments"


@pytest.mark.parametrize("name", ["w", "w_lora_a"])
def test_what_is_still_needed_stays(name):
  # The reference of a KL penalty is what the stage started from.
  params = {"w": jnp.zeros(2), name: jnp.full(2, 7.0)}
  _, reference, freed = resume(params, True)
  assert not any(freed)
  assert reference[name].tolist() == [7, 7]


def test_only_adapters_are_freed_where_only_they_train():
  params = {"w": jnp.zeros(2), "w_lora_a": jnp.full(2, 7.0)}
  state, _, freed = resume(params, False)
  assert sorted(freed) == [False, True] and not params["w"].is_deleted()
  assert state.frozen["w"].tolist() == [0, 0]


def test_training_goes_on_while_the_best_parameters_are_written(
  runs, tmp_path, monkeypatch
):
  is_training, sums_of, waited = threading.Event(), sums._sums, []

  def slow(directory):
    if "best" in directory.parts:
      waited.append(is_training.wait(20))
    return sums_of(directory)

  monkeypatch.setattr(sums, "_sums", slow)
  changes = {
    "sft__update_steps": 4,
    "sft__validate_every": 2,
    "checkpoint__every_update_steps": 2,
  }
  # Step 2 is validated and saved before the third is taken.
  runs.run(tmp_path, "sft", events={("sft", 2): is_training.set}, **changes)
  assert waited and all(waited)


def test_the_best_of_an_attempt_that_saved_nothing_is_forgotten(runs, tmp_path):
  class KilledError(Exception):
    pass

  def kill():
    raise KilledError

  changes = {
    "sft__update_steps": 3,
    "sft__validate_every": 1,
    "checkpoint__every_update_steps": 100,
  }
  with pytest.raises(KilledError):
    runs.run(tmp_path, "sft", events={("sft", 2): kill}, **changes)
  folder = tmp_path / "stages" / "0_sft"
  assert os.listdir(folder / "best") and not os.listdir(folder / "steps")
  # So slow that it stays worse than what the other settings gave.
  changes["sft__optim__learning_rate"] = 1e-6
  found = runs.run(tmp_path, "sft", **changes)
  with Checkpointer(folder, CheckpointConfig(), read_only=True) as saver:
    step, value = saver.best()
  losses = [
    x["sft/validation_loss"] for x in found.rows() if "sft/validation_loss" in x
  ]
  assert losses[step - 1] == pytest.approx(-value)
