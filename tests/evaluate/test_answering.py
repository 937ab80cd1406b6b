# SPDX-License-Identifier: Apache-2.0
"""Questions are sampled, judged and journalled; what is there is not redone."""

import jax
import pytest

from srl_jax import sharding
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.answering import Question, answer_questions
from srl_jax.evaluate.journal import Journal
from srl_jax.evaluate.judges import JudgeError
from srl_jax.evaluate.protocols import Decoding
from srl_jax.rollout.stream import Stream
from srl_jax.testing import scripted
from srl_jax.testing.answers import by_last_letter, fatal
from srl_jax.testing.scripted import ScriptedModel
from srl_jax.testing.tiny import small_mesh
from srl_jax.tokenizers import ByteTokenizer

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
