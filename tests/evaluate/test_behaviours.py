# SPDX-License-Identifier: Apache-2.0
"""Behaviours of answers: by hand, and summed over problems."""

import dataclasses
import math

import pytest

from srl_jax.evaluate import behaviours
from srl_jax.evaluate.behaviours import behaviour
from srl_jax.evaluate.summary import unit_of
from tests.support.answers import answer, numbered_problems

ANSWER = """<think>We need to add. Let me check the parts.</think>
3 + 4 = 8. Wait, 3 + 4 = 7.
<think>x = 7</think>
So the total is 2 * 7 = 14."""


def test_an_answer_by_hand():
  found = behaviour(ANSWER, "14")
  assert dataclasses.replace(found, places=()) == behaviours.Behaviour(
    words=32,
    thought_words=12,
    places=(),
    equations=3,
    wrong=1,
    corrected=1,
    is_restated=False,
    is_checked=False,
    is_planned=True,
    markers=2,
  )
  assert found.places == (0.0, ANSWER.index("<think>x") / len(ANSWER))


def test_a_correction_comes_after_the_slip():
  assert behaviour("3 + 4 = 8. No: 3+4 = 7.", "").corrected == 1
  # Another sum, an earlier one and the same slip again are none.
  assert behaviour("3 + 4 = 8. 4 + 4 = 8.", "").corrected == 0
  assert behaviour("3 + 4 = 7. 3 + 4 = 8.", "").corrected == 0
  assert behaviour("3 + 4 = 8. 3 + 4 = 9.", "").corrected == 0


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("x = 5. So y = 2. No, x = 7.", True),
    ("x = 5. So x = 5.0.", False),
    ("x = 5 or x = 7", False),
    ("x = 5 or x = 7. We take the first, x = 5.", False),
    ("x = 5 or x = 7. First x = 5. Then x = 7.", False),
    ("If x = 5, y = 2. If x = 7, y = 2.", False),
    ("x = 5. y = 7.", False),
    ("x = 5. So x = 2 + 3 = 5. Then x = 1 + 5 = 6.", True),
  ],
)
def test_a_value_is_restated_in_a_later_sentence(text, want):
  assert behaviour(text, "").is_restated is want


@pytest.mark.parametrize(
  ("text", "final", "want"),
  [
    ("20 - 8 = 12. Check: 12 + 8 = 20.", "12", True),
    ("So x = 12. Then 2 * 12 - 4 = 20, as it should be.", "12 cm", True),
    # It is computed with before it is found; the check is wrong; no check.
    ("12 + 8 = 20, so 20 - 8 = 12.", "12", False),
    ("20 - 8 = 12. Check: 12 + 8 = 21.", "12", False),
    ("20 - 8 = 12. The answer is 12 = 12.", "12", False),
    ("20 - 8 = 12. Check: 12 + 8 = 20.", "", False),
    ("20 - 8 = 12. Check: 12 + 8 = 20.", "x + 1", False),
  ],
)
def test_a_check_computes_with_the_final_answer(text, final, want):
  assert behaviour(text, final).is_checked is want


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("We need to add. 1 + 1 = 2", True),
    ("1. Find a.\n2. Find b.\n\na = 1", True),
    # The list is the work itself, the phrase comes too late, no work follows.
    ("1. a = 1\n2. b = 2\n3. c = 3", False),
    ("1 + 1 = 2. Now we need to add 3.", False),
    ("We need to add.", False),
    ("The weather will do. 1 + 1 = 2", False),
  ],
)
def test_a_plan_stands_before_the_first_equality(text, want):
  assert behaviour(text, "").is_planned is want


def test_markers_are_words_of_their_own():
  assert (
    behaviour("Wait. WAIT, let me check: awaiting, instead.", "").markers == 4
  )


def test_rates_are_of_all_answers_and_ratios_of_sums():
  problems = numbered_problems(2)
  answers = [
    answer("p0", 0, text="3 + 4 = 8. 3 + 4 = 7.", final="7"),
    answer("p0", 1, text="1 + 1 = 2. 1 + 2 = 3. 1 + 3 = 4. wait", final="7"),
    answer("p1", 0, text="<think>a</think>b<think>c d</think>", final=""),
    answer("p1", 1, text="none", final=""),
  ]
  got = {n: e.value for n, e in behaviours.summary(problems, answers).items()}
  assert got["with a wrong equation"] == 0.25
  assert got["several think blocks"] == 0.25
  assert got["think blocks"] == 0.5
  # One of five equations; the mean of the answers' shares would be 1/4.
  assert got["wrong equations"] == 0.2
  assert got["wrong ones corrected"] == 1
  assert got["place of think blocks"] == pytest.approx(
    "<think>a</think>b<think>c".index("b<") / 2 / 35 + 1 / 70
  )
  # One marker in 10 + 16 + 2 + 1 words.
  assert got["markers per 100 words"] == pytest.approx(100 / 29)
  assert got["words in think blocks"] == pytest.approx(3 / 29)


def test_of_no_wrong_equation_no_share_is_corrected():
  found = behaviours.summary(numbered_problems(1), [answer("p0")])
  assert math.isnan(found["wrong ones corrected"].value)
  assert behaviours.summary(numbered_problems(1), []).keys() == found.keys()


def test_only_shares_are_shown_in_percent():
  counts = {"think blocks", "equations", "markers per 100 words"}
  found = behaviours.summary(numbered_problems(1), [answer("p0")])
  assert {name for name in found if unit_of(name) != "%"} == counts
  # The interval of a share of answers is wide even for one.
  wide = {name for name, x in found.items() if x.high > 0}
  assert wide == {*list(found)[:8]} - counts
