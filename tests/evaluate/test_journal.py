# SPDX-License-Identifier: Apache-2.0
"""The journal of answers survives kills and refuses other evaluations."""

import json

import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.journal import (
  Journal,
  read_answers,
  read_facts,
  read_results,
)
from srl_jax.evaluate.judges import JudgeError
from srl_jax.evaluate.protocols import our_verdict
from srl_jax.evaluate.records import Answer
from srl_jax.storage import files
from tests.support.answers import by_last_letter

PROBLEMS = [
  Problem("p1", "1 + 2?", "3", suite="mine"),
  Problem("q", "ü?", "4", level="2", suite="other"),
]
FACTS = {"protocol": {"name": "paper", "samples": 2}, "seed": 0}


def answer(sample, **changes):
  fields = {
    "suite": "mine",
    "problem": "p1",
    "decoding": "sampled",
    "sample": sample,
    "text": "so it is \\boxed{3}\n✓",
    "tokens": 9,
    "is_stopped": True,
    "final": "3",
    "is_correct": True,
    "turns": ("a", "b"),
    "observations": ("seen",),
  }
  return Answer(**fields | changes)


def test_answers_are_in_the_file_at_once_and_come_back(tmp_path):
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    journal.add(answer(0))
    journal.add(answer(1, is_correct=False))
    assert read_answers(tmp_path) == [answer(0), answer(1, is_correct=False)]
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    assert journal.answers == [answer(0), answer(1, is_correct=False)]
    journal.add(answer(2))
  assert [a.sample for a in read_answers(tmp_path)] == [0, 1, 2]
  assert read_facts(tmp_path) == FACTS


def test_a_journal_of_a_version_without_observations_is_read(tmp_path):
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    journal.add(answer(0))
  path = tmp_path / "answers.jsonl"
  fields = json.loads(path.read_text())
  del fields["observations"]
  path.write_text(json.dumps(fields) + "\n")
  assert read_answers(tmp_path) == [answer(0, observations=())]


def test_a_line_that_a_kill_cut_is_dropped_and_the_file_stays_whole(tmp_path):
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    journal.add(answer(0))
    journal.add(answer(1))
  path = tmp_path / "answers.jsonl"
  path.write_bytes(path.read_bytes()[:-20])
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    assert [a.sample for a in journal.answers] == [0]
    journal.add(answer(1))
  assert [a.sample for a in read_answers(tmp_path)] == [0, 1]


def test_another_evaluation_in_the_folder_is_refused_by_what_differs(tmp_path):
  # The weights may have moved meanwhile.
  for path in ("here", "there"):
    with Journal(tmp_path, FACTS | {"model": path}, PROBLEMS):
      pass
  other = {"protocol": {"name": "paper", "samples": 4}, "seed": 0}
  with pytest.raises(ValueError, match="samples is 2 and 4"):
    Journal(tmp_path, other, PROBLEMS)


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    journal.add(answer(0))
    journal.add(answer(1))
  path = tmp_path / "answers.jsonl"
  path.write_text(path.read_text().replace("{", "", 1))
  with pytest.raises(ValueError, match="line 1 is damaged"):
    read_answers(tmp_path)


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no evaluation"):
    read_facts(tmp_path)


def test_results_of_a_folder_are_by_suite(tmp_path):
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    journal.add(answer(0))
    journal.add(answer(0, suite="other", problem="q"))
  mine, other = read_results(tmp_path)
  assert (mine.suite, mine.problems, mine.answers) == (
    "mine",
    PROBLEMS[:1],
    [answer(0)],
  )
  assert other.protocol == FACTS["protocol"] and other.name == tmp_path.name


@pytest.mark.parametrize(
  "name", ["problems.jsonl", "answers.jsonl", "table.md"]
)
def test_files_of_others_are_not_overwritten(tmp_path, name):
  (tmp_path / name).write_text("mine")
  with pytest.raises(ValueError, match=f"has {name} and no evaluation.json"):
    Journal(tmp_path, FACTS, PROBLEMS)
  assert [x.name for x in tmp_path.iterdir()] == [name]
  assert (tmp_path / name).read_text() == "mine"


def test_killed_between_its_first_files_it_begins_again(tmp_path, monkeypatch):
  written = []

  def write(path, text):
    written.append(path.name)
    raise KeyboardInterrupt

  monkeypatch.setattr(files, "write_text", write)
  with pytest.raises(KeyboardInterrupt):
    Journal(tmp_path, FACTS, PROBLEMS)
  monkeypatch.undo()
  assert written
  with Journal(tmp_path, FACTS, PROBLEMS) as journal:
    assert journal.answers == []


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"seed": 0}'])
def test_facts_that_say_nothing_are_damaged(tmp_path, text):
  (tmp_path / "evaluation.json").write_text(text)
  with pytest.raises(ValueError, match=r"evaluation\.json .*is damaged"):
    read_results(tmp_path)


def of_rules(version, mode="solve"):
  return {"protocol": {"mode": mode, "rules_sha256": version}, "seed": 0}


@pytest.fixture
def judged_by_old_rules(tmp_path):
  with Journal(tmp_path, of_rules("old"), PROBLEMS) as journal:
    journal.add(answer(0, final="", is_correct=False))
    journal.add(answer(1, text="\\boxed{5}", final="5", is_correct=True))
  return tmp_path


def test_answers_are_judged_anew_when_rules_alone_have_changed(
  judged_by_old_rules, capsys
):
  folder = judged_by_old_rules
  with Journal(folder, of_rules("new"), PROBLEMS, our_verdict) as journal:
    assert [(a.final, a.is_correct) for a in journal.answers] == [
      ("3", True),
      ("5", False),
    ]
    journal.add(answer(2))
  assert read_facts(folder) == of_rules("new")
  assert [a.is_correct for a in read_answers(folder)] == [True, False, True]
  said = "2 answers judged anew, as the rules of verdicts have changed: 1 are"
  assert said in capsys.readouterr().out
  with Journal(folder, of_rules("new"), PROBLEMS, our_verdict):
    assert "anew" not in capsys.readouterr().out


def test_a_kill_while_verdicts_are_written_leaves_them_to_no_rules(
  judged_by_old_rules, monkeypatch
):
  folder = judged_by_old_rules
  write = files.write_text

  def write_answers_and_die(path, text):
    write(path, text)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(files, "write_text", write_answers_and_die)
    Journal(folder, of_rules("new"), PROBLEMS, our_verdict)
  # The old rules, which called it wrong, judge anew what the new ones did.
  with Journal(folder, of_rules("old"), PROBLEMS, by_last_letter) as journal:
    assert [a.is_correct for a in journal.answers] == [False, False]


def test_a_verdict_that_fails_leaves_the_folder_as_it_was(judged_by_old_rules):
  folder = judged_by_old_rules
  before = read_answers(folder)
  with pytest.raises(JudgeError, match="could not be judged"):
    # No judge takes a text and a problem and is called "len".
    Journal(folder, of_rules("new"), PROBLEMS, len)
  assert read_answers(folder) == before
  assert read_facts(folder) == of_rules("old")


def test_what_new_rules_may_have_changed_in_sampling_is_refused(
  judged_by_old_rules, tmp_path
):
  folder = judged_by_old_rules
  said = "another evaluation .the version of the code that judges answers"
  with pytest.raises(ValueError, match=said):
    Journal(folder, of_rules("new"), PROBLEMS)
  with pytest.raises(ValueError, match=r"another evaluation .*; seed was 0"):
    Journal(folder, of_rules("new") | {"seed": 1}, PROBLEMS, our_verdict)
  with Journal(tmp_path / "turns", of_rules("old", "turns"), PROBLEMS):
    pass
  with pytest.raises(ValueError, match=said):
    new = of_rules("new", "turns")
    Journal(tmp_path / "turns", new, PROBLEMS, our_verdict)
