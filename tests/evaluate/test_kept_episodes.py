# SPDX-License-Identifier: Apache-2.0
"""Episodes of an evaluation that was killed are those of the next attempt."""

import dataclasses
import json

import jax
import pytest

from srl_jax import measuring
from srl_jax.evaluate.kept_episodes import KeptEpisodes
from srl_jax.processes.failures import RecurringError
from srl_jax.rollout.episodes import Episode
from srl_jax.storage import files

GREEDY = {"mode": "turns", "temperature": 0.0}
SAMPLED = {"mode": "turns", "temperature": 0.5}
EPISODE = Episode(1, 2, ("a", "ü"), ("a",), ("seen",), "answered", True, 9)


def test_episodes_come_back_as_they_were(tmp_path):
  folder = tmp_path / "before.part"
  with KeptEpisodes(folder, {"weights": "w"}) as kept:
    assert kept.of(GREEDY) == []
    kept.add(GREEDY, EPISODE)
    # It has no verdict, and the next attempt may get one.
    kept.add(GREEDY, dataclasses.replace(EPISODE, sample=3, is_correct=None))
    kept.add(SAMPLED, dataclasses.replace(EPISODE, is_correct=False))
  with (folder / "episodes.jsonl").open("a") as file:
    file.write('{"how": {"mode":')
  with KeptEpisodes(folder, {"weights": "w"}) as kept:
    assert kept.of(GREEDY) == [EPISODE]
    assert kept.of(SAMPLED) == [dataclasses.replace(EPISODE, is_correct=False)]
    kept.add(GREEDY, dataclasses.replace(EPISODE, sample=4))
  with KeptEpisodes(folder, {"weights": "w"}) as kept:
    assert [x.sample for x in kept.of(GREEDY)] == [2, 4]


def test_those_of_other_parameters_are_not_taken_over(tmp_path):
  with KeptEpisodes(tmp_path, {"weights": "w"}) as kept:
    kept.add(GREEDY, EPISODE)
  with KeptEpisodes(tmp_path, {"weights": "other"}) as kept:
    assert kept.of(GREEDY) == []


class PowerCutError(Exception):
  """Stands for whatever may end a process."""


def cut():
  raise PowerCutError


class Counted:
  """Counts what is kept, and cuts the power at one of them."""

  def __init__(self, patch, cut_at=-1):
    add, self.episodes = KeptEpisodes.add, []

    def add_counted(kept, how, episode):
      if len(self.episodes) == cut_at:
        raise PowerCutError
      self.episodes.append(episode)
      add(kept, how, episode)

    patch.setattr(KeptEpisodes, "add", add_counted)

  def __len__(self):
    return len(self.episodes)


def solutions(workdir, moment):
  return (workdir / "solutions" / f"{moment}.jsonl").read_text()


CHANGES = {"sft__update_steps": 1, "evaluate__samples": 2}
ALL = 24  # Episodes of a moment: 8 problems, greedy and two samples.


@pytest.fixture(scope="module")
def uncut(runs):
  return runs.run(runs.folder / "uncut", "sft", **CHANGES).workdir


@pytest.fixture
def killed(runs, tmp_path, monkeypatch):
  """The folder of a run that was killed after five episodes."""
  with monkeypatch.context() as patch, pytest.raises(PowerCutError):
    Counted(patch, cut_at=5)
    runs.run(tmp_path / "cut", "sft", **CHANGES)
  return tmp_path / "cut"


def test_a_run_killed_while_it_is_measured_goes_on_from_its_episodes(
  runs, killed, uncut, monkeypatch
):
  counted = Counted(monkeypatch)
  # As it may be told to where memory was too little.
  fewer = {"evaluate__answers_per_batch": 4}
  runs.run(killed, "sft", **CHANGES, **fewer)
  # No episode was sampled twice.
  assert len(counted) == 2 * ALL - 5
  names = sorted(x.name for x in (killed / "solutions").iterdir())
  assert names == ["after_sft.jsonl", "before.jsonl"]
  for moment in ("before", "after_sft"):
    assert solutions(killed, moment) == solutions(uncut, moment)
  saved = [(x / "results.json").read_text() for x in (killed, uncut)]
  assert saved[0] == saved[1]


def test_what_depends_on_other_settings_is_not_gone_on_from(
  runs, killed, monkeypatch
):
  (killed / "metrics.jsonl").write_text('{"update_step": -1, "test/a": 1.0}\n')
  (killed / "trackers").mkdir()
  counted = Counted(monkeypatch)
  changes = CHANGES | {"model__rope_theta": 1.5}
  with pytest.raises(PowerCutError):
    runs.run(killed, "sft", events={("sft", 0): cut}, **changes)
  assert len(counted) == ALL
  rows = (killed / "metrics.jsonl").read_text().splitlines()
  [before] = [x for x in map(json.loads, rows) if x["update_step"] == -1]
  assert "test/a" not in before and "test/step_exact_greedy" in before
  assert not (killed / "trackers").exists()


def test_episodes_are_kept_until_the_results_are_written(
  runs, tmp_path, monkeypatch
):
  write = files.write_json

  def write_json(path, value):
    if path.name == "results.json":
      raise PowerCutError
    write(path, value)

  with monkeypatch.context() as patch, pytest.raises(PowerCutError):
    patch.setattr(files, "write_json", write_json)
    runs.run(tmp_path, "sft", **CHANGES)
  counted = Counted(monkeypatch)
  runs.run(tmp_path, "sft", **CHANGES)
  assert len(counted) == ALL


def test_too_little_memory_for_the_test_split_comes_again(
  runs, tmp_path, monkeypatch
):
  def exhausted(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

  monkeypatch.setattr(measuring, "evaluate_steps", exhausted)
  with pytest.raises(RecurringError, match=r"c\.evaluate\.answers_per_batch"):
    runs.run(tmp_path, "sft", **CHANGES)
