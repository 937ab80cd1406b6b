# SPDX-License-Identifier: Apache-2.0
"""Episodes of an evaluation that was killed are those of the next attempt."""

import dataclasses

import pytest

from srl_jax.evaluate.kept_episodes import KeptEpisodes
from srl_jax.rollout.episodes import Episode

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
    kept.remove()
  assert not folder.exists()


def test_those_of_other_parameters_are_not_taken_over(tmp_path):
  with KeptEpisodes(tmp_path, {"weights": "w"}) as kept:
    kept.add(GREEDY, EPISODE)
  with KeptEpisodes(tmp_path, {"weights": "other"}) as kept:
    assert kept.of(GREEDY) == []


class PowerCutError(Exception):
  """Stands for whatever may end a process."""


def test_a_run_killed_while_it_is_measured_goes_on_from_its_episodes(
  runs, tmp_path
):
  changes = {"sft__update_steps": 1, "evaluate__samples": 2}
  runs.run(tmp_path / "whole", "sft", **changes)
  add, added = KeptEpisodes.add, []

  def cut_after(most):
    def add_some(self, how, episode):
      if len(added) == most:
        raise PowerCutError
      added.append((how["mode"], how["temperature"], episode))
      add(self, how, episode)

    return add_some

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(KeptEpisodes, "add", cut_after(5))
    with pytest.raises(PowerCutError):
      runs.run(tmp_path / "cut", "sft", **changes)
    before = [x for *_, x in added]
    added.clear()
    patch.setattr(KeptEpisodes, "add", cut_after(-1))
    runs.run(tmp_path / "cut", "sft", **changes)
  solutions = tmp_path / "cut" / "solutions"
  assert sorted(x.name for x in solutions.iterdir()) == [
    "after_sft.jsonl",
    "before.jsonl",
  ]
  lines = (solutions / "before.jsonl").read_text().splitlines()
  of_before = len(lines) - len(before)
  # No episode was sampled twice.
  assert len(added) == of_before + len(lines)
  for name in ("before.jsonl", "after_sft.jsonl"):
    theirs = tmp_path / "whole" / "solutions" / name
    assert (solutions / name).read_text() == theirs.read_text()
  saved = [tmp_path / x / "results.json" for x in ("cut", "whole")]
  assert saved[0].read_text() == saved[1].read_text()
