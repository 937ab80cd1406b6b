# SPDX-License-Identifier: Apache-2.0
"""Protocols word, decode and judge as they say; see also test_harnesses."""

import dataclasses
import pickle
import subprocess
import sys

import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate import protocols
from srl_jax.evaluate.protocols import (
  PROTOCOLS,
  Decoding,
  changed,
  find_protocol,
)
from srl_jax.evaluate.solve import EvalConfig

PROBLEM = Problem("1", "What is $2^5$?", "32", suite="aime24")


def test_protocols_are_found_without_jax():
  code = (
    "import sys; from srl_jax.evaluate.protocols import find_protocol;"
    "find_protocol('paper'); assert 'jax' not in sys.modules"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.returncode == 0, done.stderr


def test_an_unknown_protocol_names_the_nearest():
  with pytest.raises(ValueError, match=r"'papper' \(did you mean 'paper'\?\)"):
    find_protocol("papper")
  with pytest.raises(
    ValueError, match=r"choose one of paper, turns, qwen2.5-m"
  ):
    find_protocol("??")


def test_the_paper_takes_greedy_and_32_samples_in_the_templates_words():
  paper = find_protocol("paper")
  assert [(d.name, d.samples, d.temperature) for d in paper.decodings] == [
    ("greedy", 1, 0.0),
    ("sampled", 32, 1.0),
  ]
  assert paper.messages(PROBLEM) is None
  turns = find_protocol("turns")
  assert turns.mode == "turns" and turns.max_turns > 1
  assert turns.messages(PROBLEM) is None


@pytest.mark.parametrize(
  ("text", "verdict"),
  [
    ("<think>31?</think>So <think>no</think> \\boxed{32}.", ("32", True)),
    ("<think>\\boxed{32}</think> It is \\boxed{31}.", ("31", False)),
    # Thoughts come before each action, also where turns are joined.
    ("<think>a</think>\nx = 32\n\n<think>b</think>\n\\boxed{x}", ("x", False)),
    ("<think>a</think>\nx = 1\n\n<think>b</think>\n\\boxed{32}", ("32", True)),
    ("<think>\\boxed{32}", ("", False)),
    ("", ("", False)),
  ],
)
def test_our_verdict_reads_what_stands_outside_of_thoughts(text, verdict):
  for name in ("paper", "turns"):
    assert find_protocol(name).verdict(text, PROBLEM) == verdict


@pytest.mark.parametrize(
  "text",
  ["The answer is 31 apples in all.", "So they have 31 apples", "\\boxed{31}"],
)
def test_a_wrong_answer_is_named_without_its_words(text):
  # Otherwise the same wrong answer in other words would be two votes.
  final, is_correct = find_protocol("paper").verdict(text, PROBLEM)
  assert final.removesuffix(" apples") == "31" and not is_correct


def test_a_named_protocol_differs_from_itself_in_nothing():
  for protocol in PROTOCOLS.values():
    assert protocol.differences() == ()


def test_every_changed_value_is_said():
  paper = find_protocol("paper")
  greedy, sampled = paper.decodings
  changed = dataclasses.replace(
    paper,
    max_new_tokens=100,
    decodings=(greedy, dataclasses.replace(sampled, samples=4, top_p=0.9)),
  )
  assert changed.differences() == (
    "max_new_tokens 100 instead of 8192",
    "sampled samples 4 instead of 32",
    "sampled top_p 0.9 instead of 1.0",
  )
  assert dataclasses.replace(paper, decodings=(greedy,)).differences() == (
    "not sampled",
  )
  also = dataclasses.replace(
    find_protocol("qwen2.5-math"), decodings=paper.decodings
  )
  [said] = also.differences()
  assert said.startswith("also sampled, ") and " at temperature " in said
  words = dataclasses.replace(paper, wording=protocols.qwen_wording)
  assert words.differences() == ("wording qwen_wording instead of None",)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"decodings": ()}, "decodes nothing"),
    ({"decodings": (Decoding("greedy"),) * 2}, "decodes greedy and greedy"),
    ({"max_new_tokens": 0}, "max_new_tokens=0 .* must be at least 1"),
    ({"max_turns": 3}, "max_turns=3 has no effect; use the protocol 'turns'"),
  ],
)
def test_a_protocol_that_cannot_be_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(find_protocol("paper"), **change)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "beam"}, "'greedy' or 'sampled', not 'beam'"),
    (
      {"name": "greedy", "temperature": 0.5},
      "temperature of greedy answers is 0.5",
    ),
    ({"name": "sampled"}, "else a temperature above 0"),
    ({"name": "sampled", "temperature": -1.0}, "sampled answers is -1.0"),
    (
      {"name": "sampled", "temperature": 1.0, "top_p": 0.0},
      "a top_p above 0 and up to 1",
    ),
    ({"name": "sampled", "temperature": 1.0, "samples": 0}, "at least 1"),
    ({"name": "greedy", "samples": 4}, "all would be the same"),
  ],
)
def test_a_decoding_that_cannot_be_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Decoding(**fields)


def test_a_protocol_goes_to_worker_processes():
  for protocol in PROTOCOLS.values():
    assert pickle.loads(pickle.dumps(protocol)) == protocol


def test_braces_in_a_problem_stay_as_they_are():
  problem = Problem("1", "Is {x} in \\{1, {2}\\}?", "no", suite="exam")
  for name in ("qwen2.5-math", "lighteval", "lm-eval"):
    messages = find_protocol(name).messages(problem)
    assert problem.text in messages[-1]["content"]
  # Qwen's prompt tells the choices where the answer is one of them.
  qwen = find_protocol("qwen2.5-math").messages(problem)
  assert qwen[-1]["content"].endswith(" (Yes or No)")


def test_numbers_of_a_protocol_are_changed_and_said():
  found = changed(find_protocol("turns"), {"samples": 2}, max_turns=4)
  assert found.max_turns == 4 and found.decodings[1].samples == 2
  assert found.differences() == (
    "max_turns 4 instead of 16",
    "sampled samples 2 instead of 32",
  )
  greedy = changed(find_protocol("paper"), {"samples": 0})
  assert [decoding.name for decoding in greedy.decodings] == ["greedy"]
  with pytest.raises(ValueError, match="max_turns=4 has no effect"):
    changed(find_protocol("paper"), {}, max_turns=4)


def test_a_run_answers_suites_in_as_many_turns_as_its_test_problems():
  settings = EvalConfig(protocol="turns", max_turns=4, suite_samples=0)
  assert settings.suite_protocol().max_turns == 4
  assert EvalConfig(max_turns=4).suite_protocol().max_turns == 1
