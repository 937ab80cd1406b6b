# SPDX-License-Identifier: Apache-2.0
"""The format check: strict in training, lenient at evaluation."""

import pytest

from srl_jax.rewards import FAILURES, Parsed, split, split_lenient

GOOD = "<think>a thought</think>the action"


@pytest.mark.parametrize(
  ("text", "thought", "action"),
  [
    (GOOD, "a thought", "the action"),
    (" \n<think>\n a\n\nb </think>\n\n act \n", "a\n\nb", "act"),
    ("<think>t</think>a < b and <b>x</b>", "t", "a < b and <b>x</b>"),
    ("<think>t</think><solution>a</solution>", "t", "<solution>a</solution>"),
    # Only the four ASCII characters are white space here.
    ("<think>t</think>\u00a0a\u2003", "t", "\u00a0a\u2003"),
  ],
)
def test_good_completions_split(text, thought, action):
  assert split(text, True) == Parsed(thought, action, "")


@pytest.mark.parametrize(
  ("text", "failure"),
  [
    ("", "no_thought"),
    ("the action", "no_thought"),
    ("Well. " + GOOD, "no_thought"),
    ("a thought</think>the action", "no_thought"),
    ("<Think>t</Think>a", "no_thought"),
    ("<think>never closed", "thought_not_closed"),
    ("<think>", "thought_not_closed"),
    (GOOD + GOOD, "several_thoughts"),
    ("<think>a<think>b</think>c", "several_thoughts"),
    (GOOD + "</think>", "several_thoughts"),
    (GOOD + "<think>", "several_thoughts"),
    ("<think></think>a", "empty_thought"),
    ("<think> \n\t\r</think>a", "empty_thought"),
    ("<think>t</think>", "empty_action"),
    ("<think>t</think> \n", "empty_action"),
  ],
)
def test_each_break_has_its_name(text, failure):
  assert split(text, True) == Parsed("", "", failure)
  assert failure in FAILURES


def test_an_output_cut_by_the_length_limit_is_broken():
  assert split(GOOD, False).failure == "not_stopped"
  # Reported first: being cut explains the other failures.
  assert split("<think>so far", False).failure == "not_stopped"


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    (GOOD, ("a thought", "the action", "")),
    ("just the action", ("", "just the action", "")),
    # As the paper shows: several blocks, anywhere.
    ("<think>a</think>x\n<think>b</think>y", ("a\nb", "x\ny", "")),
    ("x <think>a</think> y", ("a", "x  y", "")),
    ("x<think>never closed", ("never closed", "x", "")),
    # The prompt ended in "<think>".
    ("a thought</think>x", ("a thought", "x", "")),
    ("a thought</think>x</think>y", ("a thought", "xy", "")),
    # A stray tag later on does not swallow what came before it.
    ("<think>a</think>x</think>y", ("a", "xy", "")),
    ("<think>a<think>b</think>x", ("a\nb", "x", "")),
    ("", ("", "", "empty_action")),
    ("<think>a</think> ", ("a", "", "empty_action")),
  ],
)
def test_evaluation_takes_think_blocks_anywhere(text, expected):
  assert split_lenient(text) == Parsed(*expected)


def test_both_agree_where_the_strict_one_accepts():
  for text in (GOOD, "<think> t </think>\n a\nb ", "<think>t</think>é\u00a0"):
    assert split(text, True) == split_lenient(text)
