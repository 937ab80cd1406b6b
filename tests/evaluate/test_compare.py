# SPDX-License-Identifier: Apache-2.0
"""Comparisons of models, and what they refuse."""

import dataclasses
import types

import pytest

from srl_jax.evaluate.compare import Result, compare
from srl_jax.evaluate.evaluator import Plan, facts
from srl_jax.evaluate.protocols import PROTOCOLS
from tests.support.answers import with_finals


def result(*finals, name="base", **changes):
  problems, answers = with_finals(finals)
  made = Result(name, "sums", {"prompt": "plain"}, problems, answers)
  return dataclasses.replace(made, **changes)


BASE = result(["1", "2"], ["2", "2"], ["1", "1"])
OTHER = result(["1", "1"], ["2", "1"], ["1", "1"], name="other")


def test_differences_are_other_minus_base_of_every_metric():
  found = compare([BASE], [OTHER])
  assert found["avg@2"].value == pytest.approx(5 / 6 - 1 / 2)
  assert found["pass@2"].value == pytest.approx(1 - 2 / 3)
  assert found["words"].value == 0
  assert (found["avg@2"].base, found["avg@2"].problems) == (0.5, 3)
  # Of three equal shares as little is known as of 0 of 3.
  found = compare([BASE], [BASE])
  assert found["avg@2"].high == pytest.approx(1 - 0.025 ** (1 / 3))
  assert found["words"].high == 0


def test_problems_are_paired_by_id_and_not_by_place():
  # The values 0.5, 0, 1 against 1, 0, 0.5 would make a wider interval.
  turned = dataclasses.replace(BASE, problems=BASE.problems[::-1])
  assert compare([BASE], [turned]) == compare([BASE], [BASE])


def test_seeds_are_averaged():
  both = compare([BASE, OTHER], [OTHER])["avg@2"]
  assert both.value == pytest.approx(5 / 6 - 2 / 3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"suite": "aime"}, "suite is 'sums' and 'aime'"),
    ({"protocol": {"prompt": "chat"}}, "prompt is 'plain' and 'chat'"),
    (
      {"protocol": {"prompt": "plain", "limit": 9}},
      "limit is absent and 9",
    ),
    (
      {"problems": [*BASE.problems[:2]]},
      "1 problems are on one side only: 'p2'",
    ),
    (
      {
        "problems": [
          dataclasses.replace(BASE.problems[0], answer="2"),
          *BASE.problems[1:],
        ]
      },
      "1 problems have another text or answer: 'p0'",
    ),
    (
      {"answers": [a for a in BASE.answers if not a.sample]},
      "number of sampled answers is 2 and 1",
    ),
  ],
)
def test_results_of_different_measurements_are_refused(changes, message):
  changed = dataclasses.replace(BASE, name="new", **changes)
  with pytest.raises(ValueError, match="'base' and 'new'") as error:
    compare([BASE], [changed])
  assert message in str(error.value)


def test_no_results_are_refused():
  with pytest.raises(ValueError, match="no results"):
    compare([], [])


def test_turns_with_other_contexts_are_refused():
  model = types.SimpleNamespace(
    name="m",
    checksum="0",
    stop_ids=(0,),
    run=types.SimpleNamespace(template=None),
  )
  all_turns, last_two = (
    result(["1"], ["2"], protocol=facts(model, plan, prompts=())["protocol"])
    for plan in (
      Plan([], {}, PROTOCOLS["turns"], context_turns=turns) for turns in (0, 2)
    )
  )
  with pytest.raises(ValueError, match="context_turns is 0 and 2"):
    compare([all_turns], [last_two])
