# SPDX-License-Identifier: Apache-2.0
"""A journal of answers, so that an evaluation that was killed goes on.

A folder of an evaluation holds

  evaluation.json   what is evaluated: weights, suites, protocol, seed
  problems.jsonl    the problems
  answers.jsonl     one line per finished answer, in the order of their ends

`Journal.add` returns when the operating system has the line; a folder in a
bucket gets it a little later (mirror.py). A line that was
cut by a crash is dropped, and its answer is sampled again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srl_jax import progress
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.compare import RULES, Result, protocol_differences
from srl_jax.evaluate.judges import JudgeFunction, Judges
from srl_jax.evaluate.records import Answer
from srl_jax.storage import files
from srl_jax.storage.mirror import Mirror

FACTS = "evaluation.json"
PROBLEMS = "problems.jsonl"
ANSWERS = "answers.jsonl"
# What an evaluation writes; without FACTS beside them they are something else.
WRITTEN = (PROBLEMS, ANSWERS, "results.json", "table.md", "table.csv")


class Journal:
  """Appends answers to a folder; use as a context manager."""

  def __init__(
    self,
    folder: pathlib.Path,
    facts: Mapping[str, Any],
    problems: Sequence[Problem],
    judge: JudgeFunction | None = None,
  ):
    """Opens the folder of an evaluation, new or begun before.

    Args:
      folder: the folder.
      facts: what the answers depend on; JSON. Only "model", which is a path or
        a name, may be another when the folder is opened again, and with `judge`
        the rules of verdicts.
      problems: all problems, which name their suites.
      judge: judges the answers in the folder anew if those rules have changed.
        Of answers turn by turn it cannot: the rules also say where one ends.

    Raises:
      ValueError: the folder holds another evaluation, or files of that name
        without one.
      JudgeError: an answer could not be judged anew; the folder is as it was.
    """
    check_folder(folder)
    path = folder / FACTS
    facts = json.loads(json.dumps(facts))
    before = read_facts(folder) if path.exists() else facts
    different = list(_differences(before, facts))
    is_outdated = judge and different and _differ_in_rules_alone(before, facts)
    if different and not is_outdated:
      raise ValueError(
        f"{folder} holds another evaluation ({'; '.join(different[:5])}); "
        "give this one an --out of its own, or, in a run, remove that folder, "
        "which the same command answers anew"
      )
    self.answers = read_answers(folder)
    if is_outdated:
      self.answers = _judged_anew(self.answers, problems, judge)
      # While they may be of either rules, the facts call them those of none.
      files.write_json(path, _without_rules(facts))
      files.write_text(folder / ANSWERS, "".join(map(_line, self.answers)))
    files.write_json(path, facts)
    files.write_text(folder / PROBLEMS, "".join(map(_line, problems)))
    self._mirror = Mirror(folder)
    path = self._mirror.folder / ANSWERS
    # What a crash has cut stays behind the last whole line.
    files.write_text(path, "".join(map(_line, self.answers)))
    self._file = path.open("a", encoding="utf-8")

  def add(self, answer: Answer) -> None:
    """Appends an answer."""
    self._file.write(_line(answer))
    self._file.flush()
    self.answers.append(answer)

  def __enter__(self) -> Journal:
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()
    self._mirror.close()


def _differ_in_rules_alone(
  before: Mapping[str, Any], now: Mapping[str, Any]
) -> bool:
  """Whether the same answers, in one go, are only judged by other rules."""
  is_one_go = (now.get("protocol") or {}).get("mode") != "turns"
  pair = _without_rules(before), _without_rules(now)
  return is_one_go and not list(_differences(*pair))


def _without_rules(facts: Mapping[str, Any]) -> dict[str, Any]:
  protocol = dict(facts.get("protocol") or {})
  protocol.pop(RULES, None)
  return {**facts, "protocol": protocol}


def _judged_anew(
  answers: Sequence[Answer], problems: Sequence[Problem], judge: JudgeFunction
) -> list[Answer]:
  """Returns answers with verdicts by the rules of now."""
  by_id = {(problem.suite, problem.id): problem for problem in problems}
  what = "answers judged anew, as the rules of verdicts have changed"
  found: list[Answer] = []
  with progress.task(what, total=len(answers)), Judges(judge) as judges:
    for answer in answers:
      problem = by_id[answer.suite, answer.problem]
      make = functools.partial(dataclasses.replace, answer)
      judges.put(answer.text, problem, make)
      found += judges.take()
      progress.advance(len(found), len(answers))
    found += judges.take(0)
  right = [sum(answer.is_correct for answer in x) for x in (answers, found)]
  progress.say(
    f"{len(found)} {what}: {right[1]} are right, {right[0]} were before"
  )
  return found


def check_folder(folder: pathlib.Path) -> None:
  """Refuses a folder in which an evaluation would overwrite something else.

  Raises:
    ValueError: it has files of these names, and not what they belong to.
  """
  found = [name for name in WRITTEN if (folder / name).exists()]
  if found and not (folder / FACTS).exists():
    raise ValueError(
      f"{folder} has {', '.join(found)} and no {FACTS}, so an evaluation would "
      "overwrite what is not its own; give it a folder of its own, or remove "
      "these files"
    )


def read_answers(folder: pathlib.Path) -> list[Answer]:
  """Returns the answers of a folder, without a last line that was cut.

  Raises:
    ValueError: another line is damaged.
  """
  path = folder / ANSWERS
  if not path.exists():
    return []
  lines = path.read_bytes().split(b"\n")
  answers = []
  for number, line in enumerate(lines[:-1], start=1):
    try:
      fields = json.loads(line)
      fields["turns"] = tuple(fields["turns"])
      # Journals of older versions have none.
      fields["observations"] = tuple(fields.get("observations", ()))
      answers.append(Answer(**fields))
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"{path} line {number} is damaged ({error}); delete the line, and the "
        "same command samples its answer again"
      ) from error
  return answers


def read_facts(folder: pathlib.Path) -> dict[str, Any]:
  """Returns what a folder says of its evaluation.

  Raises:
    ValueError: there is none in the folder, or it is damaged.
  """
  path = folder / FACTS
  if not path.is_file():
    raise ValueError(
      f"there is no evaluation in {folder} (no {FACTS}); give the --out of "
      "srl_jax evaluate"
    )
  try:
    return dict(json.loads(path.read_text(encoding="utf-8")))
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"{path} is damaged ({error}); restore it, or evaluate into another "
      "folder"
    ) from error


def read_results(folder: pathlib.Path) -> list[Result]:
  """Returns the answers of an evaluation's folder, suite by suite.

  Tables call the checkpoint by the folder's name.

  Raises:
    ValueError: there is no evaluation in the folder, or a line is damaged.
  """
  facts = read_facts(folder)
  if "protocol" not in facts:
    raise ValueError(
      f"{folder / FACTS} names no protocol, so it is damaged; restore it, or "
      "evaluate into another folder"
    )
  path = folder / PROBLEMS
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
    problems = [Problem(**json.loads(line)) for line in lines]
  except (ValueError, TypeError, OSError) as error:
    raise ValueError(
      f"{path} cannot be read ({error}); run the evaluation's command again, "
      "which writes it anew"
    ) from error
  return group(folder.name, facts, problems, read_answers(folder))


def group(
  name: str,
  facts: Mapping[str, Any],
  problems: Sequence[Problem],
  answers: Sequence[Answer],
) -> list[Result]:
  """Returns a Result for each suite, in the order of the problems."""
  suites = dict.fromkeys(problem.suite for problem in problems)
  return [
    Result(
      name,
      suite,
      facts["protocol"],
      [problem for problem in problems if problem.suite == suite],
      [answer for answer in answers if answer.suite == suite],
    )
    for suite in suites
  ]


def _line(record: Answer | Problem) -> str:
  return json.dumps(dataclasses.asdict(record)) + "\n"


def _differences(
  before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
  """Says what differs of what answers depend on."""
  for name in sorted(before.keys() | now.keys()):
    one, two = before.get(name), now.get(name)
    if name == "protocol":
      yield from protocol_differences(one or {}, two or {})
    elif name != "model" and one != two:
      yield f"{name} was {one!r} and is {two!r}"
