# SPDX-License-Identifier: Apache-2.0
"""Overlap of problems with training data: n-grams, phrases, spellings."""

import itertools
import random

import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.contamination import Overlap, contamination, words_of
from srl_jax.trajectory import Step, Trajectory


def trajectory(name, problem, *steps):
  return Trajectory(name, "math", problem, tuple(map(Step, steps or ["so"])))


LONG = "one two three four five six seven"


def overlap(text, *training, words=3, boilerplate=3):
  [found] = contamination(
    [Problem("p", text, "1")],
    [trajectory(f"t{i}", t) for i, t in enumerate(training)],
    words=words,
    boilerplate=boilerplate,
  )
  return found


def test_the_share_is_of_different_grams():
  # Five grams of three words; two stand in t1, and one of these in t0 too.
  found = overlap(LONG, "x one two three x", "one TWO, (three) four")
  assert found == Overlap("p", 5, 2, False, False, "t1")
  assert found.share == 0.4
  # "a a a" stands four times and is one gram.
  assert overlap("a a a a a a b", "a a a").grams == 2
  # Words that the suite does not have are none of its words.
  assert overlap(LONG, "zebra two three").found == 0


def test_grams_of_several_texts_add_up():
  found = overlap(LONG, "one two three", "three four five", "five six seven")
  assert found.found == 3
  assert found.is_flagged
  # One of two grams is half of them, one of three is less.
  assert overlap("one two three four", "one two three").is_flagged
  assert not overlap("one two three four five", "one two three").is_flagged


def test_steps_titles_and_thoughts_are_training_data():
  steps = (
    Step("x", title="one two three"),
    Step("x", thought="three four five"),
    Step("five six seven", observation="two three four"),
  )
  [found] = contamination(
    [Problem("p", LONG, "1")],
    [Trajectory("t", "math", "y", steps)],
    words=3,
  )
  assert found.found == 4


def test_phrases_of_the_suite_count_for_nothing():
  phrase = "where m and n are relatively prime positive integers find m n"
  problems = [
    Problem(f"p{i}", f"{name} {phrase}", "1")
    for i, name in enumerate(("red roses", "blue birds", "green grass"))
  ]
  training = [trajectory("t", f"Tall trees {phrase}.")]
  found = contamination(problems, training, words=5)
  # Only the grams with a word of the problem's own are left: none is found.
  # With the phrase 8 of 10 would be, and all three problems flagged.
  assert [(x.grams, x.found) for x in found] == [(2, 0)] * 3
  found = contamination(problems, training, words=5, boilerplate=4)
  assert [(x.grams, x.found, x.is_flagged) for x in found] == [
    (10, 8, True)
  ] * 3


def test_short_problems_are_looked_for_as_a_whole():
  found = overlap("Add 2 and 3.", "please add 2 AND 3 now", words=13)
  assert found == Overlap("p", 1, 1, True, True, "t0")
  found = overlap("Add 2 and 3.", "add 2 and 4, and 2 and 3", words=13)
  assert (found.found, found.is_flagged, found.is_whole) == (0, False, True)
  # All phrase: the three problems are the same, and found as a whole.
  problems = [Problem(f"p{i}", "one two three four", "1") for i in range(3)]
  found = contamination(problems, [trajectory("t", LONG)], words=3)
  assert [(x.is_whole, x.found) for x in found] == [(True, 1)] * 3


@pytest.mark.parametrize(
  ("text", "words"),
  [
    (r"\frac{m}{n}", ["m", "n"]),
    (r"$\dfrac mn$ m/n", ["mn", "m", "n"]),
    (r"\left( X_1 \right)", ["x", "1"]),
    # These are English.
    ("left, text", ["left", "text"]),
    (r"\sqrt{2} \text{ cm}", ["sqrt", "2", "cm"]),
    ("求 3 的值", ["求", "3", "的", "值"]),
    ("ＡＢ é", ["ab", "é"]),
    ("", []),
  ],
)
def test_words(text, words):
  assert words_of(text) == words


def test_random_texts_match_a_search_word_by_word():
  rng = random.Random(0)
  draw = lambda n: " ".join(rng.choices("abc", k=n))  # noqa: E731
  problems = [
    Problem(f"p{i}", draw(rng.randint(1, 30)), "1") for i in range(60)
  ]
  texts = [draw(40) for _ in range(5)]
  found = contamination(
    problems,
    [trajectory(str(i), text, "z") for i, text in enumerate(texts)],
    words=5,
    boilerplate=10**6,
  )
  for problem, got in zip(problems, found, strict=True):
    words = problem.text.split()
    size = min(5, len(words))
    grams = {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
    any_of = sum(any(" ".join(g) in t for t in texts) for g in grams)
    assert (got.grams, got.found) == (len(grams), any_of)
  # Some are found and some are not.
  assert len({x.is_flagged for x in found}) == 2


def test_training_data_are_read_as_a_stream():
  endless = (trajectory(str(i), "x") for i in itertools.count())
  problems = [Problem("p", LONG, "1")]
  found = contamination(problems, itertools.islice(endless, 1000))
  assert not found[0].found
  assert next(endless).id == "1000"


def test_nothing_to_look_for_or_in():
  assert contamination([], [trajectory("t", "x")]) == []
  assert overlap("$$", "x").grams == 0
  assert not overlap("$$", "x").is_flagged
  assert overlap(LONG).share == 0


@pytest.mark.parametrize(
  "wrong",
  [{"words": 0}, {"boilerplate": 1}],
)
def test_settings_without_sense_are_refused(wrong):
  with pytest.raises(ValueError, match="grams have 1 word or more"):
    overlap(LONG, "x", **wrong)
