# SPDX-License-Identifier: Apache-2.0
"""Think blocks, interventions on them, and the answers that change."""

from unittest import mock

import pytest

from srl_jax.evaluate import evaluator
from srl_jax.evaluate import interventions as command
from srl_jax.evaluate.answering import Question
from srl_jax.evaluate.thoughts import (
  interventions,
  share_changed,
  think_blocks,
)
from srl_jax.rewards.format import split_lenient
from tests.support.answers import answer, numbered_problems

TEXTS = [
  "<think>a</think>b",
  "x<think>a</think>b<think>c",
  "a</think>b<think>c</think>d",
  "<think>a<think>b</think>c</think>d",
  "b</think><think>",
  "none",
  "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_blocks_are_those_of_the_format(text):
  blocks = think_blocks(text)
  thoughts = [text[b.inner_start : b.inner_end] for b in blocks]
  thoughts = "\n".join(t.replace("<think>", "\n").strip() for t in thoughts)
  assert thoughts.strip() == split_lenient(text).thought


def test_places_of_blocks():
  text = "x<think>a</think>b<think>c"
  first, last = think_blocks(text)
  assert text[first.start : first.end] == "<think>a</think>"
  assert first.is_closed and not last.is_closed
  assert text[last.inner_start :] == "c"


def test_interventions_change_one_block_and_drop_what_follows():
  text = "a<think>no digits</think>b<think>1 + 12 = 13, 1</think>c<think>d"
  found = interventions(text)
  assert [(x.kind, x.block) for x in found] == [
    *(("unchanged", 0), ("deleted", 0)),
    *(("unchanged", 1), ("deleted", 1), ("corrupted", 1)),
  ]
  prefixes = [x.prefix for x in found]
  assert prefixes[0] == "a<think>no digits</think>"
  assert prefixes[1] == "a<think>\n</think>"
  assert prefixes[2] == text[: text.index("c<think>")]
  assert prefixes[3] == "a<think>no digits</think>b<think>\n</think>"
  one, plus, two, equals, three, again = (
    prefixes[4].partition("b<think>")[2].removesuffix("</think>").split()
  )
  assert (plus, equals) == ("+", "=")
  # Each number is another, and a number is the same everywhere.
  assert one == again != "1"
  assert two != "12" and two[0] == "1" and len(two) == 2
  assert three != "13,"
  assert found == interventions(text)
  assert interventions(text, seed=1)[4] != found[4]


def test_interventions_are_of_the_first_blocks():
  found = interventions("<think>a</think>" * 9)
  assert [x.block for x in found] == [0, 0, 1, 1, 2, 2, 3, 3]
  assert max(len(x.prefix) for x in found) == 64


def test_answers_that_change_are_counted_by_problem():
  found = share_changed(
    [["1/2", "2", ""], ["", "5"]], [["0.5", "3", ""], ["4", ""]]
  )
  # 0.5 is 1/2 and none is none; an answer lost or found has changed.
  assert found.value == 3 / 5
  with pytest.raises(ValueError, match=r"\[2\] original and \[1\] continued"):
    share_changed([["1", "2"]], [["1"]])


def test_few_changed_answers_are_decoded_in_few_rows(monkeypatch, tmp_path):
  [problem] = numbered_problems(1)
  changed = [
    command._Changed(answer("p0"), kind, Question(problem, [1]))
    for kind in ("unchanged", "deleted")
  ]
  monkeypatch.setattr(command, "_questions", lambda *_: changed)
  monkeypatch.setattr(evaluator, "facts", lambda *_: {})
  monkeypatch.setattr(
    command, "answer_questions", lambda make, *_, **__: make(1)
  )
  model, plan = mock.Mock(), mock.Mock(answers_per_batch=64)
  command.intervene(model, plan, [], tmp_path, most=1)
  assert model.stream.call_args.kwargs["rows"] == 2
