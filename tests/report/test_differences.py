# SPDX-License-Identifier: Apache-2.0
"""Runs are compared problem by problem, where they were measured alike."""

import dataclasses
import json
import shutil

import pytest

from srl_jax import held_out
from srl_jax.data.joining import join_steps
from srl_jax.evaluate import seeds
from srl_jax.evaluate.journal import Journal
from srl_jax.report.differences import group_differences, paired_differences
from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs
from srl_jax.testing.reports import write_run
from tests.support.answers import with_finals
from tests.support.trajectories import sums


def test_differences_are_paired_by_problem(tmp_path):
  [run] = read_runs([write_run(tmp_path / "run")])
  [difference] = paired_differences(run)
  # Before 1000 and after 0111: three gained, one lost, (3 - 1) / 4.
  assert (difference.gained, difference.lost, difference.problems) == (3, 1, 4)
  assert difference.estimate.value == 0.5
  assert difference.estimate.low < 0.5 < difference.estimate.high
  assert (difference.moment, difference.how) == ("after srl", "turns, greedy")


def test_groups_are_compared_over_problems_and_runs(tmp_path):
  ends = {"a": ("0011", "0001"), "b": ("0111", "1111")}
  paths = []
  for number, rights in enumerate(ends.values()):
    for seed, right in enumerate(rights):
      path = write_run(
        tmp_path / f"{number}{seed}", seed=seed, update_steps=20 + number
      )
      solutions = path / "solutions" / "after_srl.jsonl"
      rows = map(json.loads, solutions.read_text().splitlines())
      lines = [
        json.dumps(row | {"is_correct": x == "1"}) + "\n"
        for row, x in zip(rows, right, strict=True)
      ]
      solutions.write_text("".join(lines))
      paths.append(path)
  [found] = group_differences(read_runs(paths))
  assert (found.base, found.runs) == ("made-up", (2, 2))
  # 7 of 8 minus 3 of 8.
  assert found.estimate == seeds.difference(
    [[0, 0, 1, 1], [0, 0, 0, 1]], [[0, 1, 1, 1], [1, 1, 1, 1]], is_share=True
  )
  assert found.estimate.value == 0.5


def configure(workdir, **changes):
  path = workdir / "config.json"
  config = json.loads(path.read_text())
  config["evaluate"] |= changes
  path.write_text(json.dumps(config))


def test_groups_with_other_problems_or_limits_are_not_compared(tmp_path):
  base = write_run(tmp_path / "base")
  other = write_run(tmp_path / "other", update_steps=21)
  problems = [sums(4, "a"), sums(4, "b")]

  def refusal(theirs):
    held_out.write({"test": problems}, base)
    held_out.write({"test": theirs}, other)
    [found] = group_differences(read_runs([base, other]))
    assert found.how == "turns, greedy"
    assert (found.estimate is None) == bool(found.refusal)
    return found.refusal

  assert not refusal(problems)
  # An experiment may have other steps to the same problems.
  assert not refusal([join_steps(x, 2) for x in problems])
  assert refusal([sums(4, "a"), sums(4, "c")]) == (
    "not measured alike: other test problems"
  )
  configure(other, max_solve_tokens=99, step_trajectories=3)
  assert not refusal(problems)
  configure(other, max_turns=1)
  assert refusal(problems) == "not measured alike: other c.evaluate.max_turns"


def test_a_problem_that_only_one_moment_has_is_left_out(tmp_path):
  workdir = write_run(tmp_path / "run")
  path = workdir / "solutions" / "after_srl.jsonl"
  path.write_text("".join(path.read_text().splitlines(True)[:2]))
  [run] = read_runs([workdir])
  [difference] = paired_differences(run)
  assert (difference.problems, difference.estimate.value) == (2, 0.0)
  # One without a verdict is as one that is not there.
  path.write_text(path.read_text().replace("false", "null"))
  [run] = read_runs([workdir])
  assert list(paired_differences(run)) == []  # One problem has no interval.


RULES = {"rules_sha256": "of now"}


def test_answers_to_suites_are_compared_between_moments(tmp_path):
  workdir = write_run(tmp_path / "run")
  for moment, rights in (("before", "000"), ("after_srl", "011")):
    problems, answers = with_finals(
      [["1" if x == "1" else "2"] for x in rights], decoding="greedy"
    )
    problems = [dataclasses.replace(x, suite="sums") for x in problems]
    folder = workdir / "suites" / moment
    with Journal(folder, {"protocol": RULES}, problems) as journal:
      for answer in answers:
        journal.add(answer)
  [run] = read_runs([workdir])
  _, difference = paired_differences(run)
  assert (difference.how, difference.moment) == ("sums, greedy", "after srl")
  assert (difference.gained, difference.lost, difference.problems) == (2, 0, 3)
  assert difference.estimate.value == pytest.approx(2 / 3)
  other = write_run(tmp_path / "other", update_steps=21)
  # Suites have limits of their own, of which their protocol tells.
  configure(other, max_turns=1)
  shutil.copytree(workdir / "suites", other / "suites")
  _, of_groups = group_differences(read_runs([workdir, other]))
  assert (of_groups.how, of_groups.estimate.value) == ("sums, greedy", 0)
  # Not where they were judged otherwise.
  path = other / "suites" / "after_srl" / "evaluation.json"
  path.write_text(path.read_text().replace("of now", "of an older version"))
  runs = read_runs([workdir, other])
  refused = "is 'of now' and 'of an older version'"
  _, of_groups = group_differences(runs)
  _, difference = paired_differences(runs[1])
  for x in (of_groups, difference):
    assert x.estimate is None
    assert refused in x.refusal
  assert make_page(runs).count("of an older version") == 2
