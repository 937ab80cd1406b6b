# SPDX-License-Identifier: Apache-2.0
"""Logs of Inspect are read back by Inspect as what was written."""

import dataclasses
import sys

import pytest

from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.inspect_log import write_inspect_logs
from tests.support.answers import answer, numbered_problems

PROBLEMS = numbered_problems(2, level="5")
ANSWERS = [
  answer("p0", 0, text="so<think>a</think>b<think>c"),
  answer("p0", 1, final="", text="", is_stopped=False),
  answer("p1", 0, final="2", turns=("<think>t</think>one", "two")),
  answer("p1", 1),
  answer("p0", 0, decoding="greedy"),
  answer("p1", 0, decoding="greedy", final="3"),
]
RESULT = Result("step 100", "sums", {"prompt": "plain"}, PROBLEMS, ANSWERS)


def test_logs_are_read_back(tmp_path):
  log = pytest.importorskip("inspect_ai.log")
  greedy, sampled = write_inspect_logs(RESULT, tmp_path / "new")
  assert [greedy.name, sampled.name] == [
    "sums_greedy.eval",
    "sums_sampled.eval",
  ]
  read = log.read_eval_log(str(sampled))
  assert read.status == "success"
  assert (read.eval.model, read.eval.dataset.name) == ("step 100", "sums")
  assert read.eval.metadata == {"decoding": "sampled", "prompt": "plain"}
  assert read.eval.config.epochs == 2
  [score] = read.results.scores
  assert score.metrics["avg@2"].value == 0.5
  assert score.metrics["avg@2"].params["low"] < 0.5
  samples = {(s.id, s.epoch): s for s in read.samples}
  assert sorted(samples) == [("p0", 1), ("p0", 2), ("p1", 1), ("p1", 2)]
  first = samples["p0", 1]
  assert (first.input, first.target) == ("What is 0?", "1")
  assert first.metadata == {"level": "5", "subject": "", "tokens": 5}
  assert first.scores["srl_jax"].value == "C"
  parts = first.output.message.content
  assert [(part.type, getattr(part, part.type)) for part in parts] == [
    *(("text", "so"), ("reasoning", "a"), ("text", "b"), ("reasoning", "c")),
  ]
  assert samples["p0", 2].output.stop_reason == "max_tokens"
  turned = samples["p1", 1]
  assert (turned.scores["srl_jax"].value, turned.scores["srl_jax"].answer) == (
    *("I", "2"),
  )
  assert [m.role for m in turned.messages] == ["user", "assistant", "assistant"]
  assert turned.output.message.text == "two"
  read = log.read_eval_log(str(greedy))
  assert read.results.scores[0].metrics["greedy"].value == 0.5
  assert len(read.samples) == 2


def test_an_episode_has_the_messages_of_all_turns(tmp_path):
  log = pytest.importorskip("inspect_ai.log")
  texts = ("<think>look</think>\n?a", "!", "no action")
  episode = answer("p0", 0, turns=texts, observations=("a: 1", ""))
  rest = [answer("p1", 0, turns=("!", "."), observations=("2", ""))]
  result = dataclasses.replace(RESULT, answers=[episode, *rest])
  [path] = write_inspect_logs(result, tmp_path)
  first, second = log.read_eval_log(str(path)).samples
  assert [(m.role, m.text) for m in first.messages] == [
    ("user", "What is 0?"),
    ("assistant", "\n?a"),
    ("user", "a: 1"),
    ("assistant", "!"),
    ("user", ""),
    ("assistant", "no action"),
  ]
  assert first.messages[1].content[0].reasoning == "look"
  assert first.output.message.text == "no action"
  # An environment has answered the last action, too.
  assert [m.role for m in second.messages][-2:] == ["assistant", "user"]
  assert second.output.message.text == "."


def test_only_decodings_with_answers_have_a_log(tmp_path):
  pytest.importorskip("inspect_ai")
  greedy = [a for a in ANSWERS if a.decoding == "greedy"]
  only = dataclasses.replace(RESULT, answers=greedy)
  assert len(write_inspect_logs(only, tmp_path)) == 1


def test_without_inspect_the_error_says_what_to_type(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "inspect_ai", None)
  with pytest.raises(ValueError, match="pip install inspect-ai"):
    write_inspect_logs(RESULT, tmp_path)
