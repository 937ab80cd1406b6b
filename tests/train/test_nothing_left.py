# SPDX-License-Identifier: Apache-2.0
"""A stage that has nothing left to learn from ends early, with its results."""

import numpy as np
import pytest

from srl_jax.checkpoint import Checkpointer
from srl_jax.processes.failures import RecurringError
from srl_jax.train import rl_update
from srl_jax.update import groups


@pytest.fixture
def keep_none(monkeypatch):
  """Returns a function from which on no group is kept."""

  def now():
    monkeypatch.setattr(
      groups, "is_kept", lambda x, _: np.zeros(x.shape[:-1], bool)
    )

  return now


def run(runs, workdir, **more):
  changes = {"srl__dynamic_sampling__max_rounds": 2, "srl__validate_every": 3}
  return runs.run(workdir, "sft_srl", **changes, **more)


def test_a_stage_without_groups_that_differ_ends_with_what_it_has(
  runs, whole, keep_none, tmp_path, capsys
):
  found = run(runs, tmp_path / "run", events={("srl", 4): keep_none})
  said = capsys.readouterr().out
  assert "warning: srl: after 2 rounds of sampling only " in said
  # The pool held a whole batch.
  assert "srl 3/6  from earlier samples  0 tokens/s" in said
  [waited] = [x for x in found.rows() if x.get("srl/rounds") == 0]
  for name in ("groups_sampled", "groups_kept", "prompt_tokens"):
    assert waited[f"srl/{name}"] == 0
  assert "srl/reward" not in waited
  assert "srl ends here, after 4 of its 6 update steps" in said
  assert list(found.results) == list(whole.results)
  assert "after srl" in found.results
  # Validated when due, and at the end.
  rows = [x for x in found.rows() if "srl/validation_reward" in x]
  first = min(x["update_step"] for x in found.rows() if "srl/loss" in x)
  assert [x["update_step"] - first for x in rows] == [2, 3]
  # The same command finds it finished.
  again = run(runs, tmp_path / "run")
  assert "srl: was finished before" in capsys.readouterr().out
  assert again.results == found.results


# With 2, the update step after which it ended was saved before that.
@pytest.mark.parametrize("every_update_steps", [100, 2])
def test_a_stage_that_ended_early_does_not_go_on_when_it_is_resumed(
  every_update_steps, runs, keep_none, monkeypatch, tmp_path, capsys
):
  """Killed after it had ended, before the run knew."""

  class KilledError(Exception):
    pass

  def killed(*_):
    raise KilledError

  saving = {"checkpoint__every_update_steps": every_update_steps}

  def end_and_kill():
    keep_none()
    monkeypatch.setattr(Checkpointer, "restore_best", killed)

  with pytest.raises(KilledError):
    run(runs, tmp_path / "run", **saving, events={("srl", 4): end_and_kill})
  monkeypatch.undo()
  capsys.readouterr()
  run(runs, tmp_path / "run", **saving)
  said = capsys.readouterr().out
  # What is left of the data might have groups that differ.
  assert "srl: resuming after update step 4 of 6" in said
  assert "srl 5/6" not in said
  assert "srl: its result is update step " in said


def test_nothing_to_learn_from_at_first_is_an_error(runs, keep_none, tmp_path):
  with pytest.raises(RecurringError, match="only 0 of 12 groups have rewards"):
    run(runs, tmp_path / "run", events={("srl", 0): keep_none})


def test_what_the_error_asks_for_can_be_done_in_the_same_folder(
  runs, keep_none, monkeypatch, tmp_path, capsys
):
  with pytest.raises(RecurringError, match=r"raise c\.srl\.sampling\.samples"):
    run(runs, tmp_path / "run", events={("srl", 0): keep_none})
  monkeypatch.undo()
  # Evaluation has the same contexts, and the first stage is done.
  for change in (
    {"srl__trunks__max_trunk_tokens": 99},
    {"sft__optim__learning_rate": 0.1},
  ):
    with pytest.raises(ValueError, match="a run of another configuration"):
      run(runs, tmp_path / "run", **change)
  capsys.readouterr()
  found = run(runs, tmp_path / "run", srl__sampling__samples=6)
  assert "sft: was finished before" in capsys.readouterr().out
  assert "after srl" in found.results


def test_broken_formats_are_an_error_at_any_time(
  runs, keep_none, monkeypatch, tmp_path
):
  def break_formats():
    keep_none()
    measured = rl_update.reduce_metrics
    monkeypatch.setattr(
      rl_update,
      "reduce_metrics",
      lambda rounds: measured(rounds) | {"format_failure": 0.9},
    )

  with pytest.raises(RecurringError, match=r"90.0% of the samples break") as x:
    run(runs, tmp_path / "run", events={("srl", 4): break_formats})
  # Fewer broke before, so the learning rate is the first to suspect.
  assert "broken the model: lower c.srl.optim.learning_rate" in str(x.value)
