# SPDX-License-Identifier: Apache-2.0
"""Questions are sampled, judged and journalled; what is there is not redone."""

import dataclasses
import functools

import jax
import pytest

from srl_jax import domains, sharding
from srl_jax.data.templates import PlainTemplate
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.answering import (
  Question,
  answer_by_turns,
  answer_questions,
)
from srl_jax.evaluate.journal import Journal
from srl_jax.evaluate.judges import JudgeError
from srl_jax.evaluate.protocols import Decoding
from srl_jax.rewards import Completion
from srl_jax.rollout.episodes import EpisodeRules
from srl_jax.rollout.requests import Request
from srl_jax.rollout.stream import Stream
from srl_jax.testing.tiny import small_mesh
from srl_jax.tokenizers import ByteTokenizer
from tests.support import scripted
from tests.support.answers import by_last_letter, fatal
from tests.support.scripted import ScriptedModel, ScriptedStream

TOKENIZER = ByteTokenizer()
DECODING = Decoding("sampled", samples=3, temperature=1.0)
PROBLEMS = [
  Problem(id=str(i), text=text, answer=answer, suite="mine")
  for i, (text, answer) in enumerate([("a", "f"), ("bc", "x"), ("u", "z")])
]


def make_stream(longest):
  """A model that goes on in the alphabet and stops before "g" and "{"."""
  script = scripted.successor(TOKENIZER.vocab_size)
  return Stream(
    ScriptedModel(),
    script,
    rows=2,
    slots=2,
    stop_ids=TOKENIZER.encode("g{"),
    mesh=small_mesh(),
    rules=sharding.ShardingRules(),
    key=jax.random.key(0),
    trunk_width=longest,
  )


def run(journal, make_stream=make_stream, judge=by_last_letter):
  questions = [Question(p, TOKENIZER.encode(p.text)) for p in PROBLEMS]
  answer_questions(
    make_stream,
    questions,
    DECODING,
    max_new_tokens=8,
    journal=journal,
    judge=judge,
    tokenizer=TOKENIZER,
  )


def test_every_sample_of_every_problem_is_judged_by_its_own_reference(tmp_path):
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    run(journal)
  found = {(a.problem, a.sample): a for a in journal.answers}
  assert len(found) == len(journal.answers) == 9
  for sample in range(3):
    first, second, third = (found[p, sample] for p in "012")
    assert (first.text, first.final, first.is_correct) == ("bcdef", "f", True)
    assert first.tokens == 6 and first.is_stopped
    assert (second.text, second.is_correct) == ("def", False)
    assert (third.text, third.is_correct) == ("vwxyz", True)
    assert third.decoding == "sampled" and third.suite == "mine"


def test_what_the_journal_has_is_not_sampled_again(tmp_path):
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    run(journal)
    whole = {(a.problem, a.sample): a for a in journal.answers}
  path = tmp_path / "answers.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:4]) + lines[4][:10])
  streams = []

  def counting(longest):
    streams.append(make_stream(longest))
    return streams[-1]

  with Journal(tmp_path, {}, PROBLEMS) as journal:
    run(journal, counting)
    assert {(a.problem, a.sample): a for a in journal.answers} == whole
    assert len(journal.answers) == 9
  [stream] = streams
  sampled = sum(a.tokens for a in journal.answers[4:])
  assert stream.work.drawn_tokens == sampled
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    run(journal, lambda longest: pytest.fail("sampled what was there"))


def test_an_answer_that_ends_its_judge_loses_no_other(tmp_path):
  # The longer prompt is sampled first, so the others are judged after it.
  problems = [Problem("a", "cd", "f"), Problem("b", "abcdi", "x")]
  questions = [Question(p, TOKENIZER.encode(p.text)) for p in problems]
  questions[1] = questions[1]._replace(prefix="die ")
  with Journal(tmp_path, {}, problems) as journal:
    with pytest.raises(JudgeError, match=r"'b'.*twice the judge ended.*-9"):
      answer_questions(
        make_stream,
        questions,
        DECODING,
        max_new_tokens=8,
        journal=journal,
        judge=fatal,
        tokenizer=TOKENIZER,
      )
    assert {(a.problem, a.sample) for a in journal.answers} == {
      ("a", sample) for sample in range(3)
    }


def test_a_question_may_have_a_lower_limit_of_its_own(tmp_path):
  problems = [Problem(str(i), "h", "x") for i in range(3)]
  questions = [
    Question(problem, TOKENIZER.encode("h"), "", limit)
    for problem, limit in zip(problems, (0, 3, 99), strict=True)
  ]
  with Journal(tmp_path, {}, problems) as journal:
    answer_questions(
      make_stream,
      questions,
      Decoding("greedy"),
      max_new_tokens=5,
      journal=journal,
      judge=by_last_letter,
      tokenizer=TOKENIZER,
    )
    assert {a.problem: a.text for a in journal.answers} == {
      "0": "ijklm",
      "1": "ijk",
      "2": "ijklm",
    }


TURNS = {
  "a\n<step>": "<think>hm</think>b",
  "a\nb\n<step>": "\\boxed{f}",
  "bc\n<step>": "\\boxed{de}",
  "u\n<step>": "<think>v</think>",
}


def run_by_turns(
  journal, answer=TURNS.__getitem__, domain="math", is_stopped=True
):
  """Answers turn by turn, one episode at a time; returns the prompts."""
  stream = ScriptedStream(
    TOKENIZER,
    lambda prompt: Completion(answer(prompt), is_stopped),
    stop_id=TOKENIZER.special_id("</s>"),
    capacity=1,
  )
  answer_by_turns(
    lambda: stream,
    PROBLEMS,
    [problem.trajectory(domain) for problem in PROBLEMS],
    DECODING,
    rules=EpisodeRules(
      task="step",
      turns=2,
      context_turns=0,
      max_positions=512,
      request=functools.partial(Request, max_new_tokens=20),
      template=PlainTemplate(),
      tokenizer=TOKENIZER,
      has_verdicts=False,
    ),
    journal=journal,
    judge=by_last_letter,
  )
  return stream.prompts


def test_turns_are_judged_together_by_what_was_done(tmp_path):
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    prompts = run_by_turns(journal)
  # Three samples of each problem.
  assert sorted(prompts) == sorted(3 * list(TURNS))
  found = {(a.problem, a.sample): a for a in journal.answers}
  assert len(found) == len(journal.answers) == 9
  first, second, third = (found[p, 2] for p in "012")
  assert first.turns == ("<think>hm</think>b", "\\boxed{f}")
  assert first.text == "<think>hm</think>b\n\n\\boxed{f}"
  assert first.tokens == len("<think>hm</think>b\\boxed{f}") + 2
  assert first.is_stopped and first.final == "}"
  assert second.turns == ("\\boxed{de}",)
  assert third.text == "<think>v</think>" and third.final == ""
  assert third.is_stopped  # It wrote no action, but no limit cut it.


def test_turns_that_a_limit_cut_are_not_stopped(tmp_path):
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    run_by_turns(journal, is_stopped=False)
  assert len(journal.answers) == 9
  assert not any(a.is_stopped for a in journal.answers)


def test_episodes_are_journalled_as_they_end(tmp_path):
  calls = []

  def answer(prompt):
    calls.append(prompt)
    if len(calls) == 7:
      raise OSError("killed")
    return TURNS[prompt]

  with Journal(tmp_path, {}, PROBLEMS) as journal:
    with pytest.raises(OSError, match="killed"):
      run_by_turns(journal, answer)
    # Six turns were answered: the three samples of the first problem.
    assert [(a.problem, a.sample) for a in journal.answers] == [
      ("0", sample) for sample in range(3)
    ]
  path = tmp_path / "answers.jsonl"
  before = path.read_text()
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    prompts = run_by_turns(journal)
  assert len(prompts) == 6 and not any(p.startswith("a") for p in prompts)
  assert path.read_text().startswith(before)
  assert len(journal.answers) == 9


class Counter:
  """An environment in which "f" is done, and any other step goes on."""

  def reset(self, trajectory):
    self.is_done = False

  def step(self, action):
    self.is_done = action == "f"
    return "seen", self.is_done

  def solved(self):
    return self.is_done

  def close(self):
    pass


def test_an_environment_decides_what_is_right(tmp_path, imported_domains):
  name = "some.module:COUNTED"
  domain = dataclasses.replace(
    domains.DOMAINS["software"], name="counted", environment=Counter
  )
  imported_domains[name] = domain

  def answer(prompt):
    return "f" if prompt.startswith(("a", "bc\nd")) else "d"

  with Journal(tmp_path, {}, PROBLEMS) as journal:
    run_by_turns(journal, answer, name)
  # The judge would take none but the first for right.
  found = {
    a.problem: (a.turns, a.final, a.is_correct, a.is_stopped)
    for a in journal.answers
  }
  # The last one was ended by the limit of turns.
  assert found == {
    "0": (("f",), "f", True, True),
    "1": (("d", "f"), "f", True, True),
    "2": (("d", "d"), "d", False, False),
  }
  seen = {a.problem: a.observations for a in journal.answers}
  assert seen == {"0": ("seen",), "1": ("seen",) * 2, "2": ("seen",) * 2}


def test_an_answer_without_a_verdict_is_not_kept_and_said(
  tmp_path, imported_domains, monkeypatch
):
  name = "some.module:COUNTED"
  domain = dataclasses.replace(
    domains.DOMAINS["software"], name="counted", environment=Counter
  )
  imported_domains[name] = domain
  with monkeypatch.context() as patched, Journal(tmp_path, {}, PROBLEMS) as it:
    patched.setattr(Counter, "solved", lambda self: self.is_done or None)
    with pytest.raises(JudgeError, match=r"6 of 9 answers .* problem '1'"):
      run_by_turns(it, lambda prompt: "f" if prompt[0] == "a" else "d", name)
  with Journal(tmp_path, {}, PROBLEMS) as journal:
    assert {a.problem for a in journal.answers} == {"0"}
    run_by_turns(journal, lambda prompt: "f", name)
  assert len(journal.answers) == 9


def test_a_question_may_be_for_some_of_the_samples_only(tmp_path):
  problem = Problem("0", "h", "x")
  questions = [
    Question(problem, TOKENIZER.encode("h"), samples=(0, 2)),
    Question(problem, TOKENIZER.encode("ab"), samples=(1,)),
  ]
  with Journal(tmp_path, {}, [problem]) as journal:
    answer_questions(
      make_stream,
      questions,
      DECODING,
      max_new_tokens=2,
      journal=journal,
      judge=by_last_letter,
      tokenizer=TOKENIZER,
    )
    texts = {a.sample: a.text for a in journal.answers}
  assert texts == {0: "ij", 1: "cd", 2: "ij"}
